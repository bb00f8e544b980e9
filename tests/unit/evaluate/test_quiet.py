import logging
import sys
import threading

import pytest

from ct_llm.evaluate.quiet import quiet


def test_prints_and_logs_of_libraries_are_not_seen(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("lm_eval.somewhere")
    with quiet():
        sys.stdout.write("chatter")
        sys.stderr.write("more")
        assert not logger.isEnabledFor(logging.WARNING)
    sys.stdout.write("said")
    assert capsys.readouterr() == ("said", "")
    assert logger.isEnabledFor(logging.WARNING)


def test_exceptions_come_through_and_give_the_streams_back() -> None:
    out, err = sys.stdout, sys.stderr
    with pytest.raises(KeyError), quiet(), quiet():
        raise KeyError
    assert (sys.stdout, sys.stderr) == (out, err)


def test_threads_that_leave_in_any_order() -> None:
    out, level = sys.stdout, logging.getLogger("datasets").level
    first_in, second_in, first_out = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        with quiet():
            first_in.set()
            second_in.wait(10)
        first_out.set()

    thread = threading.Thread(target=first)
    thread.start()
    assert first_in.wait(10)
    with quiet():
        second_in.set()
        assert first_out.wait(10)
        assert sys.stdout is not out
    thread.join()
    assert sys.stdout is out
    assert logging.getLogger("datasets").level == level
