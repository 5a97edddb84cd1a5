"""Functions with timer triggers. The tests read what these functions log."""

import json
import logging

import azure.functions as func

app = func.FunctionApp()


@app.timer_trigger(arg_name="timer", schedule="%EVERY%", run_on_startup=False)
def often(timer: func.TimerRequest) -> None:
    logging.warning("tick")


@app.timer_trigger(arg_name="timer", schedule="0 0 3 1 1 *")
async def yearly(timer: func.TimerRequest) -> None:
    status = timer.schedule_status  # type: ignore[attr-defined]  # not in the abstract class
    logging.warning("yearly %s %s", timer.past_due, json.dumps(status))


@app.timer_trigger(arg_name="timer", schedule="0 0 3 1 1 *", run_on_startup=True)
def at_start(timer: func.TimerRequest) -> None:
    logging.warning("at start %s", timer.past_due)


@app.timer_trigger(arg_name="timer", schedule="* * * * * *")
def switched_off(timer: func.TimerRequest) -> None:
    logging.warning("never")
