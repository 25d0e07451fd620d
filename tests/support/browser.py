"""A real Chromium that looks at the page; whatever it complains about fails the test.

async with looking(controller.url) as page:
    await page.goto("/rollouts")
"""

import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from playwright.async_api import Page, async_playwright

CHROMIUM: Final = Path(os.environ.get("FLOTILLA_TEST_CHROMIUM", "/usr/bin/chromium"))
WAIT_MS: Final = int(os.environ.get("FLOTILLA_TEST_PAGE_WAIT_MS", "45000"))
DESKTOP: Final = (1280, 900)
PHONE: Final = (380, 800)
_ARGUMENTS: Final = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_REFUSAL: Final = re.compile(r"status of 4\d\d|Status Error Code 4\d\d")

needs_chromium: Final = pytest.mark.skipif(
    not CHROMIUM.exists(), reason=f"no Chromium at {CHROMIUM}; install it, or name one in FLOTILLA_TEST_CHROMIUM"
)


@asynccontextmanager
async def looking(
    url: str,
    *,
    size: tuple[int, int] = DESKTOP,
    scheme: Any = "light",
    scripts: bool = True,
    scale: float = 1,
    refusals: bool = False,
) -> AsyncIterator[Page]:
    """One page of a browser of its own; it must have complained about nothing at the end of the block.

    Args:
        url: what paths are relative to.
        size: width and height of the window, pixels.
        scheme: `light` or `dark`.
        scripts: whether the page's scripts run.
        scale: pixels of the screen for each of the page.
        refusals: whether the server is going to refuse something, which browsers mention too.
    """
    complaints: list[str] = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)
        try:
            context = await browser.new_context(
                base_url=url,
                viewport={"width": size[0], "height": size[1]},
                color_scheme=scheme,
                java_script_enabled=scripts,
                device_scale_factor=scale,
            )
            context.set_default_timeout(WAIT_MS)
            page = await context.new_page()
            page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("dialog", lambda dialog: complaints.append(f"a script of somebody else ran: {dialog.message}"))
            yield page
        finally:
            await browser.close()
    if refusals:
        complaints = [one for one in complaints if not _REFUSAL.search(one)]
    assert not complaints, complaints
