"""Long work runs in slices: other tasks have their turn, and nothing is left half done."""

import asyncio
import gc

import pytest

from comms_exporter.base.slices import batched, freeze_gc, run_in_slices, run_to_completion


def logging_steps(log):
    for number in range(3):
        log.append(number)
        yield
    return "done"


class TestRunInSlices:
    async def test_other_tasks_run_between_two_steps(self):
        log = []

        async def other():
            for _ in range(3):
                log.append("other")
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        assert "done" == await run_in_slices(logging_steps(log))
        await task

        assert [0, "other", 1, "other", 2, "other"] == log

    async def test_a_cancelled_task_finishes_its_steps_first(self):
        log = []
        task = asyncio.create_task(run_in_slices(logging_steps(log)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert [0, 1, 2] == log


def test_run_to_completion_returns_the_result():
    log = []

    assert "done" == run_to_completion(logging_steps(log))
    assert [0, 1, 2] == log


def test_batched_yields_every_item_once_and_in_order():
    assert [[0, 1, 2], [3, 4, 5], [6]] == list(batched(range(7), 3))
    assert [] == list(batched([], 3))


def test_freeze_gc_exempts_the_objects_that_exist():
    before = gc.get_freeze_count()
    try:
        freeze_gc()

        assert before < gc.get_freeze_count()
    finally:
        gc.unfreeze()
