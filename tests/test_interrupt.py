import os
import signal
import threading

from kdcache.interrupt import graceful_stop


def test_the_first_signal_only_asks() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with graceful_stop() as stop:
        assert not stop
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop
        assert stop.signal_number == signal.SIGTERM
        # The second one is for the handler that was there before.
        assert signal.getsignal(signal.SIGTERM) == before
    assert signal.getsignal(signal.SIGTERM) == before


def test_outside_the_main_thread_nothing_happens() -> None:
    seen: list[bool] = []

    def work() -> None:
        with graceful_stop() as stop:
            seen.append(bool(stop))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
