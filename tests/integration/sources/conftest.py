from tests.integration.wire import api, wire

__all__ = ["api", "wire"]
