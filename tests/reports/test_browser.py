"""The page in a real browser, where there is one."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdcache.reports.page import render_page
from tests.reports.synthetic import everything

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next((path for name in NAMES if (path := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(NAMES)} is installed")
# A page of 375 px in a frame of that width: a window cannot be made that narrow everywhere.
FRAME = """<!doctype html><body style="margin:0">
<iframe src="{page}" style="border:0;width:375px;height:800px"></iframe>
<script>onload = () => {{
  const root = document.querySelector("iframe").contentDocument.documentElement;
  document.body.dataset.widths = root.scrollWidth + " of " + root.clientWidth;
}};</script>"""


def browse(*flags: str) -> tuple[str, str]:
    """Standard output and error of the browser."""
    assert BROWSER is not None
    command = [
        BROWSER,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--disable-dev-shm-usage",
    ]
    command += ["--enable-logging=stderr", "--v=0", "--virtual-time-budget=5000", *flags]
    result = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
    return result.stdout, result.stderr


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, tiny_root: Path) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    path = folder / "report.html"
    path.write_text(render_page(everything(folder, tiny_root), "Everything"), encoding="utf-8")
    return path


@pytest.mark.slow
def test_it_loads_without_a_complaint_and_keeps_its_figures(page: Path) -> None:
    shown, log = browse("--dump-dom", page.as_uri())
    assert "CONSOLE" not in log, log
    assert shown.count("<svg") == page.read_text(encoding="utf-8").count("<svg") > 15


@pytest.mark.slow
def test_a_phone_does_not_scroll_sideways(page: Path) -> None:
    frame = page.with_name("frame.html")
    # Everything that can be opened is open, for wide tables hide there too.
    opened = page.with_name("opened.html")
    opened.write_text(page.read_text(encoding="utf-8").replace("<details>", "<details open>"), encoding="utf-8")
    frame.write_text(FRAME.format(page="opened.html"), encoding="utf-8")
    shown, _ = browse("--allow-file-access-from-files", "--dump-dom", frame.as_uri())
    found = re.search(r'data-widths="(\d+) of (\d+)"', shown)
    assert found is not None, shown[-400:]
    assert found[1] == found[2] == "375"


@pytest.mark.parametrize(("scheme", "is_dark"), [("dark", True), ("light", False)])
def test_it_follows_the_colour_scheme(page: Path, scheme: str, is_dark: bool) -> None:
    picture = page.with_name(f"{scheme}.png")
    flags = [f"--blink-settings=preferredColorScheme={0 if is_dark else 1}", "--window-size=1200,3000"]
    browse(*flags, f"--screenshot={picture}", page.as_uri())
    brightness = np.asarray(Image.open(picture).convert("L"))
    assert (np.median(brightness) < 60) == is_dark
    # Text and axes are drawn in the other colour.
    assert (abs(brightness.astype(int) - int(np.median(brightness))) > 150).mean() > 0.005
