"""The two programs that run inside the sandboxes: what they say to each other, and what they believe.

They are text, because they start in an interpreter that sees none of this package. A message is its
length in four bytes, then a Python literal. The checker trusts nothing that comes in: a literal is
parsed, never evaluated, and whatever is no reply ends the item as failed, so that no check can take
a dead or lying worker for a function that raised.
"""

# Runs first in each sandbox: the limits are hard, and without capabilities nothing can raise them.
# The two sides speak Python literals. `json` would cost 13 ms of each start; `_ast` is built in.
PRELUDE = """
import _ast, os, resource, sys
for limit in sys.argv[1].split():
    name, _, value = limit.partition("=")
    resource.setrlimit(getattr(resource, name), (int(value), int(value)))
FD = int(sys.argv[2])
MAX_MESSAGE = 4 * 1024**2
sys.set_int_max_str_digits(100_000)
def read_exactly(count):
    data = b""
    while len(data) < count:
        part = os.read(FD, min(count - len(data), 65536))
        if not part:
            raise EOFError
        data += part
    return data
def receive(resolve=None):
    size = int.from_bytes(read_exactly(4), "big")
    if size > MAX_MESSAGE:
        raise ValueError("message too long")
    text = read_exactly(size).decode()
    return decode(compile(text, "message", "eval", _ast.PyCF_ONLY_AST).body, resolve)
def send(value, refer=None):
    data = encode(value, refer).encode()
    data = memoryview(len(data).to_bytes(4, "big") + data)
    while data:
        data = data[os.write(FD, data):]
KINDS = (bool, int, str, bytes, float, complex, list, tuple, set, frozenset, dict)
KINDS = {kind.__name__: kind for kind in KINDS}
def encode(value, refer):
    # Plain data as a literal; anything else travels as a reference.
    for plain in (bool, int, str, bytes):
        if isinstance(value, plain):
            return ascii(plain(value))
    if value is None:
        return "None"
    for name, kind in KINDS.items():
        if value is kind:
            return name
    if isinstance(value, float):
        return f"float({str(float(value))!r})"
    if isinstance(value, complex):
        return f"complex({encode(float(value.real), refer)}, {encode(float(value.imag), refer)})"
    if isinstance(value, dict):
        pairs = [f"{encode(k, refer)}: {encode(v, refer)}" for k, v in value.items()]
        return "{" + ", ".join(pairs) + "}"
    for kind in (list, tuple, set, frozenset):
        if isinstance(value, kind):
            return f"{kind.__name__}([" + ", ".join([encode(i, refer) for i in value]) + "])"
    return f"refer({refer(value)})"
def decode(node, resolve):
    if isinstance(node, _ast.Constant):
        return node.value
    if isinstance(node, _ast.List):
        return [decode(item, resolve) for item in node.elts]
    if isinstance(node, _ast.Dict):
        keys = [decode(key, resolve) for key in node.keys]
        return dict(zip(keys, [decode(value, resolve) for value in node.values]))
    if isinstance(node, _ast.UnaryOp):
        return -decode(node.operand, resolve)
    if isinstance(node, _ast.Name):
        return KINDS[node.id]
    kind = resolve if node.func.id == "refer" else KINDS[node.func.id]
    return kind(*[decode(item, resolve) for item in node.args])
"""

WORKER = """
objects = []
def refer(value):
    objects.append(value)
    return len(objects) - 1
def answer(request):
    operation, target, *rest = request
    if operation == "call":
        return target(*rest[0], **rest[1])
    if operation == "get":
        return getattr(target, rest[0])
    if operation == "set":
        return setattr(target, rest[0], rest[1])
    return next(target) if operation == "next" else list(target)
def kind_of(error):
    # The checker knows the kinds of errors that are built in.
    return next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins")
def serve(code):
    namespace = {"__name__": "generated"}
    exec(compile(code, "generated", "exec"), namespace)
    send("loaded")
    names = receive()
    send({name: refer(namespace[name]) for name in names if name in namespace})
    while True:
        request = receive(objects.__getitem__)
        try:
            reply = [answer(request)]
        except Exception as error:
            reply = kind_of(error)
        send(reply, refer)

serve(sys.stdin.read())
"""

CHECKER = """
import builtins
class Remote:
    # Something of the worker's that is no plain data. Equal only to itself.
    def __init__(self, index):
        object.__setattr__(self, "_index", index)
    def __call__(self, *args, **kwargs):
        return ask("call", self, list(args), kwargs)
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return ask("get", self, name)
    def __setattr__(self, name, value):
        ask("set", self, name, value)
    def __iter__(self):
        return iter(ask("iter", self))
    def __next__(self):
        return ask("next", self)
def refer(value):
    if type(value) is not Remote:
        raise TypeError(f"cannot pass {type(value).__name__} to generated code")
    return object.__getattribute__(value, "_index")
def ask(operation, *rest):
    try:
        send([operation, *rest], refer)
        reply = receive(Remote)
        (answer,) = reply if isinstance(reply, list) else (None,)
        if not isinstance(reply, (list, str)):
            raise TypeError
    except BaseException:
        os._exit(1)
    if isinstance(reply, list):
        return answer
    kind = getattr(builtins, reply, None)
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        kind = RuntimeError
    if operation != "next" and issubclass(kind, (StopIteration, StopAsyncIteration)):
        kind = RuntimeError  # it would end the check's own loop, as if all had been seen
    try:
        error = kind.__new__(kind, "raised by generated code")
    except TypeError:
        error = RuntimeError("raised by generated code")
    raise error
def names_of(code):
    found = set(code.co_names)
    for constant in code.co_consts:
        if hasattr(constant, "co_names"):
            found |= names_of(constant)
    return found

nonce, tested, checks = sys.stdin.read().split("\\n", 2)
program = compile(checks, "checks", "exec")
tested = set(tested.split())
wanted = sorted(n for n in names_of(program) if n in tested or not hasattr(builtins, n))
if receive() != "loaded":
    raise ValueError
send(wanted)
offered = receive()
namespace = {name: Remote(offered[name]) for name in wanted if name in offered}
namespace["__name__"] = "checks"
exec(program, namespace)
os.write(int(sys.argv[3]), nonce.encode())
"""
