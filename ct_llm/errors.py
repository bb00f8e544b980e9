"""Every error ct_llm raises on purpose, one exit code per class.

    CtError                      exit  1   never raised itself
    ├── InputError               exit 30   the user can fix it: config, rows, files, names, revisions
    │   ├── ConfigError                    a key or value of the config
    │   ├── DataError                      rows or files of a dataset
    │   │   └── ContentGoneError           content of a dataset that is no longer to be had
    │   ├── HubNotFoundError               a repo, revision or file that the Hub does not have
    │   ├── HubAccessError                 no token, a wrong one, or one without the right
    │   └── AdapterError                   an adapter that is broken, empty or made for another base
    ├── RetryableError           exit 20   running the same command again may help
    │   ├── HubUnavailableError            unreachable, overloaded or failing
    │   ├── ChampionMovedError             somebody promoted since the comparison: its verdict is void
    │   ├── StorageError                   a record or file could not be written or read (disk full, ...)
    │   └── StepFailedError                a step's process died (out of memory, killed, preempted)
    └── SecurityError            exit 40   refused because it would not be safe

Verdicts are not errors. Their exit codes stand here too, so that one page has them all.
"""

EXIT_PROMOTED = 0
EXIT_NOTHING_TO_DO = 10
EXIT_REJECTED = 11
EXIT_INCONCLUSIVE = 12
EXIT_RETRYABLE = 20
EXIT_BAD_INPUT = 30
EXIT_SECURITY = 40


class CtError(Exception):
    """A failure with a message made for people: what was wrong, where, and what to do next."""

    exit_code = 1


class InputError(CtError):
    exit_code = EXIT_BAD_INPUT


class ConfigError(InputError):
    pass


class DataError(InputError):
    pass


class ContentGoneError(DataError):
    pass


class HubNotFoundError(InputError):
    pass


class HubAccessError(InputError):
    pass


class AdapterError(InputError):
    pass


class RetryableError(CtError):
    exit_code = EXIT_RETRYABLE


class HubUnavailableError(RetryableError):
    pass


class ChampionMovedError(RetryableError):
    pass


class StorageError(RetryableError):
    pass


class StepFailedError(RetryableError):
    pass


class SecurityError(CtError):
    exit_code = EXIT_SECURITY
