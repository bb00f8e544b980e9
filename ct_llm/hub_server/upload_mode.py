"""Which files go to the LFS store and which into git itself."""

from __future__ import annotations

MAX_REGULAR_SIZE = 10 * 1024 * 1024

# Weights, arrays and tables; archives; pictures, sound and documents.
LFS_EXTENSIONS = frozenset(
    [
        *(
            "arrow",
            "bin",
            "ckpt",
            "ftz",
            "h5",
            "joblib",
            "mlmodel",
            "model",
            "msgpack",
            "npy",
            "npz",
        ),
        *("onnx", "ot", "parquet", "pb", "pickle", "pkl", "pt", "pth", "safetensors", "tflite"),
        *("7z", "bz2", "gz", "rar", "tar", "tgz", "wasm", "xz", "zip", "zst"),
        *("flac", "gif", "jpeg", "jpg", "mp3", "mp4", "ogg", "pdf", "png", "wav", "webp"),
    ]
)

# What a new repo's .gitattributes says, so that `git lfs` draws the same line as this server.
GITATTRIBUTES = "".join(
    f"*.{extension} filter=lfs diff=lfs merge=lfs -text\n" for extension in sorted(LFS_EXTENSIONS)
)


def upload_mode(path: str, size: int, sample: bytes) -> str:
    """'lfs' or 'regular' for a file, from its name, its size and its first bytes."""
    if size == 0:
        return "regular"
    extension = path.rpartition("/")[2].rpartition(".")[2].lower()
    if extension in LFS_EXTENSIONS or size > MAX_REGULAR_SIZE or not _is_text(sample):
        return "lfs"
    return "regular"


def _is_text(sample: bytes) -> bool:
    if b"\0" in sample:
        return False
    try:
        sample.decode("utf-8")
    except UnicodeDecodeError as error:
        # The sample may end within a character.
        return error.reason == "unexpected end of data"
    return True
