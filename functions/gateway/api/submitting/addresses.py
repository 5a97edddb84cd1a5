"""The URLs that a submit names: looked at before anything is accepted, and again when called."""

from contract.errors import ForbiddenAddress
from gateway import problems
from gateway.api.submitting.intake import Intake
from gateway.problems import Problem
from gateway.settings import Settings
from gateway.webhooks.sending import checked_target


async def check_addresses(settings: Settings, intake: Intake) -> None:
    """Refuse a URL that we must not call; costs nothing where the submit names none."""
    if intake.url is not None:
        await _check(settings, "input.url", intake.url.url)
    if intake.webhook_url is not None:
        if not settings.webhook_secrets:
            raise Problem(
                problems.INVALID_INPUT,
                "webhook.url: this gateway sends no webhooks; it has no WEBHOOK_SECRETS",
            )
        await _check(settings, "webhook.url", intake.webhook_url)


async def _check(settings: Settings, where: str, url: str) -> None:
    try:
        await checked_target(settings.guard, url)
    except ForbiddenAddress as error:
        raise Problem(problems.INVALID_INPUT, f"{where}: {error}") from None
