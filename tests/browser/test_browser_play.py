"""Test the playground in a real browser: inputs, jobs, timelines, errors, and code to copy."""

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from PIL import Image
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.keys import Keys

from contract.catalogue import DEFAULT_PATH
from gateway.problems import PROBLEM_KINDS
from tests.browser.browser import Browser, SentRequest
from tests.browser.checks import check_width, check_with_axe, press, tab_to
from tests.e2e.system import ROOT, System, running, until

pytestmark = [pytest.mark.e2e, pytest.mark.torch, pytest.mark.timeout(180)]

EXAMPLES = ROOT / "examples"
COMMANDS = Path(sys.executable).parent
UPLOAD_BYTES = 20_000_000
MODEL = """
[{name}]
task = "{task}"
description = "A model of the tests."
implementation = "{implementation}"
media_types = [{media_types}]
max_input_bytes = {max_input_bytes}
max_batch_size = 1
max_wait_ms = 0
lock_seconds = 5
{more}
"""
INSET = 'type = "number", minimum = 0, maximum = 0.7, default = 0.25, description = "A part."'
MODE = 'type = "string", enum = ["fast", "exact"], default = "fast"'
NAMES = 'type = "array", items = {type = "string"}'
PARAMETERS = "\n".join(
    f"parameters.{name} = {{{schema}}}"
    for name, schema in (("inset", INSET), ("mode", MODE), ("names", NAMES))
)

RESULTS = """
results.mask = {media_type = "image/png", description = "Where the cat is."}
results.note = {media_type = "text/plain", optional = true}
results.large = {media_type = "application/json", optional = true}
"""


# A picture of chelsea.jpg is small enough for a form, and one of coffee.jpg must be uploaded.
NAMED_INPUTS = """
inputs.other = {media_types = ["image/jpeg", "image/png"], max_input_bytes = 22_000, \
                max_upload_bytes = 1_000_000, description = "The picture to compare with."}
inputs.note = {media_types = ["application/json"], optional = true}
"""


def entry(name: str, implementation: str, media_types: str, more: str, limit: int = 10**7) -> str:
    return MODEL.format(
        name=name,
        task=f"{name}-task",
        implementation=implementation,
        media_types=", ".join(f'"{media_type}"' for media_type in media_types.split()),
        max_input_bytes=limit,
        more=more,
    )


def shape(name: str, more: str = "") -> str:
    more += f'\nmax_pixels = 10_000_000\noptions = {{shape = "{name}"}}'
    return entry(name, "tests.browser.shapes_model", "image/jpeg image/png", more)


CATALOGUE = "".join(
    (
        DEFAULT_PATH.read_text("utf-8"),
        shape("boxes", PARAMETERS),
        '\n[boxes."2"]\ndescription = "Another version."\n',
        shape("mask", 'result_media_type = "image/png"'),
        shape("grey", 'result_media_type = "image/png"'),
        shape("numbers"),
        shape("tone", 'result_media_type = "audio/wav"'),
        shape("large"),
        entry("pair", "tests.browser.named_inputs_model", "image/jpeg image/png", NAMED_INPUTS),
        shape("parts", RESULTS),
        entry("slow", "tests.e2e.slow_model", "text/plain", "reports_progress = true", limit=1000),
        entry(
            "teller",
            "tests.e2e.stream_model",
            "application/json text/plain",
            'reports_progress = true\nstreams = true\nresult_media_type = "text/plain"',
        ),
        entry(
            "chat",
            "tests.e2e.stream_model",
            "application/json text/plain",
            'reports_progress = true\nopenai = ["chat.completions"]',
        ),
        entry(
            "painter",
            "tests.e2e.stream_model",
            "application/json text/plain",
            "reports_progress = true",
        ),
        entry(
            "echo",
            "tests.browser.echo_model",
            "application/octet-stream",
            'max_upload_bytes = 100_000_000\nresult_media_type = "application/octet-stream"',
        ),
    )
)


@pytest.fixture(scope="module")
def system(chromium: Chrome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Run a system with the shipped models, and with test models for further kinds of results."""
    # Slow jobs raise the estimated wait above the deadlines of later jobs. Accept them anyway.
    environment = {"ACCEPT_WHEN_SATURATED": "true"}
    with running(
        tmp_path_factory.mktemp("play") / "data", CATALOGUE, environment=environment
    ) as started:
        yield started


def open_model(browser: Browser, name: str) -> None:
    browser.open(f"/play#{name}")
    browser.find(f".model[data-name='{name}'] .model-facts")


def click(browser: Browser, selector: str) -> None:
    found = browser.find(selector)
    browser.run("arguments[0].scrollIntoView({block: 'center'})", found)
    found.click()


def choose(browser: Browser, group: str, value: str) -> None:
    click(browser, f"#{group} label:has(input[value='{value}'])")


def choose_file(browser: Browser, path: Path, prefix: str = "") -> None:
    browser.run(f"return document.querySelector('#{prefix}file')").send_keys(str(path))
    browser.wait_for_text(f"#{prefix}preview .file", path.name.partition(".")[0])


def drop_file(browser: Browser, path: Path, prefix: str = "") -> None:
    drop_files(browser, path, prefix=prefix)
    browser.wait_for_text(f"#{prefix}preview .file", path.name)


def drop_files(browser: Browser, *paths: Path, prefix: str = "") -> None:
    """Drag files over the page, as from a file manager, and drop them on an input."""
    place = browser.find(f"#{prefix}drop")
    browser.run("arguments[0].scrollIntoView({block: 'center'})", place)
    middle = browser.run(
        "const box = arguments[0].getBoundingClientRect();"
        "return [box.x + box.width / 2, box.y + box.height / 2]",
        place,
    )
    data = {"items": [], "files": [*map(str, paths)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        event = {"type": kind, "x": middle[0], "y": middle[1], "data": data}
        browser.driver.execute_cdp_cmd("Input.dispatchDragEvent", event)


def enter(browser: Browser, selector: str, text: str) -> None:
    field = browser.find(selector)
    browser.run("arguments[0].scrollIntoView({block: 'center'})", field)
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys(text)


def set_options(browser: Browser, **options: str) -> None:
    browser.run("document.querySelector('#options').open = true")
    for name, text in options.items():
        enter(browser, f"#{name}", text)


def start(browser: Browser) -> None:
    click(browser, "#run")


def run(browser: Browser, status: str = "succeeded") -> None:
    start(browser)
    browser.wait_for_text("#badge", status)
    is_free = "return document.querySelector('#run').ariaDisabled !== 'true'"
    browser.wait(lambda: browser.run(is_free), "the run does not end")


def run_file(browser: Browser, model: str, name: str = "chelsea.jpg") -> None:
    open_model(browser, model)
    choose_file(browser, EXAMPLES / name)
    run(browser)


def open_text(browser: Browser, model: str, text: str) -> None:
    open_model(browser, model)
    choose(browser, "modes", "text")
    enter(browser, "#text", text)


def job_of(browser: Browser, system: System) -> dict[str, Any]:
    return system.job(browser.find("#job-facts code").text)


def pixel(browser: Browser, x: float, y: float, width: int) -> list[int]:
    found: list[int] = browser.run(
        "const canvas = document.querySelector('canvas.picture');"
        "const scale = canvas.width / arguments[2];"
        "return [...canvas.getContext('2d').getImageData("
        "  arguments[0] * scale, arguments[1] * scale, 1, 1).data].slice(0, 3)",
        x,
        y,
        width,
    )
    return found


def is_near(found: list[int], expected: list[int], tolerance: int = 6) -> bool:
    return max(abs(a - b) for a, b in zip(found, expected, strict=True)) <= tolerance


def swatch(browser: Browser, row: int) -> list[int]:
    colour = browser.find_all("#result .swatch")[row].value_of_css_property("background-color")
    return [int(part) for part in colour.partition("(")[2].rstrip(")").split(",")[:3]]


def set_slider(browser: Browser, selector: str, value: float) -> None:
    browser.run(
        "arguments[0].value = arguments[1];"
        "arguments[0].dispatchEvent(new Event('input', {bubbles: true}))",
        browser.find(selector),
        value,
    )


# --- Inputs and drawings ---


def test_dropped_picture_gets_a_bar_for_each_label(browser: Browser, system: System) -> None:
    open_model(browser, "classifier")
    drop_file(browser, EXAMPLES / "chelsea.jpg")
    run(browser)
    labels = job_of(browser, system)["result"]["labels"]
    rows = browser.find_all("#result .labels tbody tr")
    assert [row.find_element("css selector", "th").text for row in rows] == [
        label["label"] for label in labels
    ]
    assert rows[0].text.startswith("Egyptian cat")
    assert f"{labels[0]['score']:.1%}".replace("%", " %") in rows[0].text
    widths = browser.run("return [...document.querySelectorAll('.bar')].map((b) => b.offsetWidth)")
    share = labels[1]["score"] / labels[0]["score"]
    assert widths[1] / widths[0] == pytest.approx(share, abs=0.02)
    browser.wait_for_text("#timeline .steps", "run")
    assert "answered" in browser.find("#timeline .deliveries").text
    assert browser.messages == []


def test_speech_is_marked_on_the_waveform(browser: Browser, system: System) -> None:
    open_model(browser, "voice-activity")
    click(browser, "button[value='speech.wav']")
    browser.wait_for_text("#preview .file", "speech.wav")
    run(browser)
    result = job_of(browser, system)["result"]
    (segment,) = result["speech"]
    (row,) = browser.find_all("#result .sound tbody tr")
    assert f"{segment['start_seconds']:.2f} s" in row.text
    marked = browser.run(
        "const canvas = document.querySelector('#result canvas.waveform');"
        "const line = canvas.getContext('2d').getImageData(0, 1, canvas.width, 1).data;"
        "const marked = [...Array(canvas.width).keys()].filter((x) => line[4 * x + 3] > 200);"
        "return [marked[0] / canvas.width, (marked.at(-1) + 1) / canvas.width]"
    )
    length = result["duration_seconds"]
    assert marked == pytest.approx(
        [segment["start_seconds"] / length, segment["end_seconds"] / length], abs=0.01
    )
    click(browser, "#result .sound tbody button")
    place = "return document.querySelector('#result audio').currentTime"
    browser.wait(lambda: browser.run(place) > segment["start_seconds"], "the segment is not played")


def test_recorded_sound_is_submitted(browser: Browser, system: System) -> None:
    open_model(browser, "voice-activity")
    click(browser, "#record")
    browser.wait_for_text("#record", "Stop recording (2 s)")
    click(browser, "#record")
    browser.wait_for_text("#preview .file", "recording.wav")
    run(browser)
    assert 1 < job_of(browser, system)["result"]["duration_seconds"] < 30
    assert browser.messages == []


@pytest.mark.thorough
def test_camera_picture_is_submitted(browser: Browser, system: System) -> None:
    open_model(browser, "classifier")
    click(browser, "#camera")
    browser.wait(
        lambda: browser.run("return document.querySelector('#video').videoWidth > 0"),
        "the camera shows nothing",
    )
    click(browser, "#shutter")
    browser.wait_for_text("#preview .file", "camera.jpg")
    run(browser)
    assert len(job_of(browser, system)["result"]["labels"]) == 5


@pytest.mark.thorough
def test_pasted_webp_becomes_png_if_needed(browser: Browser, system: System) -> None:
    open_model(browser, "boxes")
    browser.driver.execute_async_script(
        "const done = arguments[0];"
        "const canvas = new OffscreenCanvas(40, 30); canvas.getContext('2d').fillRect(0, 0, 9, 9);"
        "canvas.convertToBlob({type: 'image/webp'}).then((blob) => {"
        "  const clipboardData = new DataTransfer();"
        "  clipboardData.items.add(new File([blob], 'drawing.webp', {type: 'image/webp'}));"
        "  document.dispatchEvent(new ClipboardEvent('paste', {clipboardData})); done(); })"
    )
    browser.wait_for_text("#preview .file", "drawing.png")
    assert "converted from image/webp" in browser.find("#preview .file").text
    run(browser)
    assert job_of(browser, system)["result"]["width"] == 40


def test_boxes_are_drawn_around_objects(browser: Browser, system: System) -> None:
    run_file(browser, "boxes")
    result = job_of(browser, system)["result"]
    assert [one["label"] for one in result["objects"]] == ["cat", "dog"]

    def edges_show_colour(row: int) -> list[bool]:
        box, colour = result["objects"][row]["box"], swatch_colours[row]
        middle = ((box["left"] + box["right"]) / 2, (box["top"] + box["bottom"]) / 2)
        places = [(box["left"], middle[1]), (box["right"], middle[1])]
        places += [(middle[0], box["top"]), (middle[0], box["bottom"])]
        return [is_near(pixel(browser, *place, result["width"]), colour) for place in places]

    # At first, only objects with a score of at least 0.5 are shown.
    assert len(browser.find_all("#result tbody tr")) == 1
    set_slider(browser, "[id^='threshold']", 0)
    swatch_colours = [swatch(browser, row) for row in (0, 1)]
    for row in (0, 1):
        assert edges_show_colour(row) == [True] * 4
    box = result["objects"][0]["box"]
    inside = ((box["left"] + box["right"]) / 2, (box["top"] + box["bottom"]) / 2)
    assert not is_near(pixel(browser, *inside, result["width"]), swatch_colours[0])
    rows = browser.find_all("#result tbody tr")
    for name in ("left", "top", "right", "bottom"):
        assert str(result["objects"][1]["box"][name]) in rows[1].text
    set_slider(browser, "[id^='threshold']", 0.5)
    assert len(browser.find_all("#result tbody tr")) == 1
    assert edges_show_colour(0) == [True] * 4
    assert edges_show_colour(1) == [False] * 4


def test_mask_is_drawn_with_the_class_at_the_pointer(browser: Browser) -> None:
    run_file(browser, "mask")
    width, height = 384, 255
    with Image.open(EXAMPLES / "chelsea.jpg") as picture:
        assert picture.size == (width, height)
    classes = [row.text.split()[1] for row in browser.find_all("#result tbody tr")]
    assert classes == ["0", "8", "15"]
    inside, outside = (width // 2, height // 2), (width - 20, height // 2)
    set_slider(browser, "[id^='opacity']", 0)
    bare = [pixel(browser, *place, width) for place in (inside, outside)]
    set_slider(browser, "[id^='opacity']", 1)
    covered = [pixel(browser, *place, width) for place in (inside, outside)]
    assert is_near(covered[0], swatch(browser, 1))
    assert not is_near(bare[0], covered[0], 30)
    assert covered[1] == bare[1]  # class 0, the background, hides nothing
    edge = height // 4
    assert is_near(pixel(browser, width / 2, edge + 0.5, width), covered[0])
    assert not is_near(pixel(browser, width / 2, edge - 0.5, width), covered[0], 30)

    canvas = browser.find("canvas.mask")
    browser.run("arguments[0].scrollIntoView({block: 'center'})", canvas)
    ActionChains(browser.driver).move_to_element(canvas).perform()
    browser.wait_for_text("#result .under", "Class 8")
    corner = (-canvas.size["width"] // 2 + 5, -canvas.size["height"] // 2 + 5)
    ActionChains(browser.driver).move_to_element_with_offset(canvas, *corner).perform()
    browser.wait_for_text("#result .under", "Class 15")
    canvas.send_keys(*[Keys.ARROW_RIGHT] * 15)
    browser.wait_for_text("#result .under", "Class 0")
    assert browser.messages == []


def test_named_results_are_drawn_below_the_first(browser: Browser, system: System) -> None:
    open_model(browser, "parts")
    browser.wait_for_text(".model[data-name='parts'] .model-facts", "mask, note, large")
    choose_file(browser, EXAMPLES / "chelsea.jpg")
    run(browser)
    job = job_of(browser, system)
    titles = [found.text for found in browser.find_all("#result .named > h3")]
    assert titles == list(job["results"]) == ["mask", "large"]
    assert browser.find("#result > div:first-child [id^='threshold']")
    browser.wait_for_text("#result .named", "Where the cat is.")
    classes = [row.text.split()[1] for row in browser.find_all("#result .named tbody tr")]
    assert classes == ["0", "8", "15"]
    files = [link.get_dom_attribute("download") for link in browser.find_all("#result a.button")]
    assert files == [
        f"{job['id']}.json",
        f"{job['id']}-mask.png",
        f"{job['id']}-large.json",
    ]
    check_with_axe(browser)
    # A second run replaces all drawings of the first.
    run(browser)
    assert len(browser.find_all("#result .named > h3")) == 2
    assert browser.messages == []


@pytest.mark.thorough
def test_undownloadable_result_leaves_the_others(browser: Browser) -> None:
    block = "Network.setBlockedURLs"
    open_model(browser, "parts")
    choose_file(browser, EXAMPLES / "chelsea.jpg")
    browser.driver.execute_cdp_cmd(block, {"urls": ["*/result/mask?*"]})
    run(browser)
    assert browser.find("#result > div:first-child [id^='threshold']")
    titles = [found.text for found in browser.find_all("#result .named > h3")]
    assert titles == ["mask", "large"]
    mask, large = browser.find_all("#result .named")
    assert "The gateway cannot be reached" in mask.text
    assert "Download the result" in large.text
    assert browser.find_all("#problem .problem") == []
    browser.wait_for_text("#timeline .steps", "run")
    check_with_axe(browser)
    browser.driver.execute_cdp_cmd(block, {"urls": []})
    click(browser, "#result .named .problem button")
    browser.wait(lambda: "Download the result" in mask.text, "the mask is not drawn")
    assert browser.find_all("#result .problem") == []
    assert len(browser.find_all("#result .named")) == 2


def test_undrawable_result_leaves_the_others(browser: Browser) -> None:
    open_model(browser, "parts")
    choose_file(browser, EXAMPLES / "chelsea.jpg")
    browser.run(
        "const make = URL.createObjectURL;"
        "URL.createObjectURL = (blob) => {"
        "  if (blob.type === 'image/png') throw new Error('no memory is left');"
        "  return make(blob); }"
    )
    run(browser)
    assert browser.find("#result > div:first-child [id^='threshold']")
    mask, large = browser.find_all("#result .named")
    assert "no memory is left" in mask.text
    assert "Download the result" in large.text
    assert browser.messages == []


def test_older_gateway_can_run_jobs(browser: Browser) -> None:
    browser.omit_members("inputs", "results")
    open_model(browser, "parts")
    assert "Named results" not in browser.find(".model[data-name='parts']").text
    choose_file(browser, EXAMPLES / "chelsea.jpg")
    browser.wait_for_text("#snippet", "/v1/models/parts/jobs")
    run(browser)
    assert browser.find("#result > div:first-child [id^='threshold']")
    assert browser.find_all("#result .named") == []
    assert browser.messages == []


def test_older_gateway_hides_named_inputs(browser: Browser) -> None:
    open_model(browser, "pair")
    assert len(browser.find_all("#named-inputs legend")) == 2
    browser.omit_members("inputs", "results")
    browser.find("header summary").click()
    browser.find(".key [type='reset']").click()
    browser.wait(lambda: not browser.find_all("#named-inputs legend"), "the inputs are still shown")
    assert browser.messages == []


@pytest.mark.thorough
def test_sound_result_has_player_and_waveform(browser: Browser) -> None:
    run_file(browser, "tone", "coffee.jpg")
    length = "return document.querySelector('#result audio').duration"
    browser.wait(lambda: browser.run(length) == 0.5, "the player does not know the sound")
    assert "0.50 s" in str(browser.find("#result .waveform").get_dom_attribute("aria-label"))


def test_grey_picture_is_shown_as_picture_or_mask(browser: Browser) -> None:
    run_file(browser, "grey")
    assert browser.find("#result img.picture").size["width"] > 0
    assert browser.find_all("#result canvas") == []
    click(browser, "#result label:has(input[value='classes'])")
    browser.find("#result canvas.mask")
    assert browser.messages == []


def test_many_numbers_flow_below_a_plot(browser: Browser) -> None:
    run_file(browser, "numbers")
    click(browser, "#result .tree details details summary")
    browser.wait_for_text("#result .tree .numbers", "127.5")
    shown = browser.find("#result .tree details details")
    assert "[256] from 0 to 127.5" in shown.text
    assert shown.size["height"] < 400
    assert browser.find("#result .tree .plot").get_dom_attribute("aria-label")


def test_many_models_stay_compact(browser: Browser) -> None:
    open_model(browser, "noop")
    cards = browser.find_all("#models .model")
    assert len(cards) > 10
    assert browser.find("#models").size["height"] < 40 * len(cards)


def test_run_bar_covers_nothing(browser: Browser) -> None:
    open_model(browser, "boxes")
    browser.driver.set_window_size(1400, 800)
    click(browser, "#options summary")
    covered = """
        const fields = document.querySelectorAll(".request-fields :is(select, button)");
        return [...fields].filter((each) => {
          each.scrollIntoView({ block: "end" });
          const box = each.getBoundingClientRect();
          const bar = document.querySelector(".go").getBoundingClientRect();
          return box.height && box.bottom > bar.top + 1;
        }).length"""
    assert browser.run(covered) == 0


@pytest.mark.thorough
def test_json_result_is_shown_as_a_tree(browser: Browser, system: System) -> None:
    open_model(browser, "noop")
    choose(browser, "modes", "json")
    enter(browser, "#text", '{"a": [1,')
    browser.wait_for_text("#text-check", "Not JSON")
    assert browser.find("#text").get_dom_attribute("aria-invalid") == "true"
    enter(browser, "#text", '{"a": [1, 2]}')
    browser.wait_for_text("#text-check", "Valid JSON")
    run(browser)
    sent = hashlib.sha256(b'{"a":[1,2]}').hexdigest()
    result = job_of(browser, system)["result"]
    assert result["sha256"] == sent
    assert sent in browser.find("#result .tree").text


def test_each_parameter_has_a_form_field(browser: Browser, system: System) -> None:
    open_model(browser, "boxes")
    choose_file(browser, EXAMPLES / "chelsea.jpg")
    assert browser.find_all("#parameters-json") == []
    set_options(browser, **{"parameter-inset": "0.5", "parameter-names": '["a", "b"]'})
    assert browser.run("return document.querySelector('#parameter-mode').value") == '"fast"'
    run(browser)
    assert job_of(browser, system)["result"]["objects"][0]["box"]["left"] == 192
    (sent,) = (one for one in browser.requests if "/models/boxes/jobs" in one.url)
    (parameters,) = parse_qs(urlsplit(sent.url).query)["parameters"]
    assert json.loads(parameters) == {"inset": 0.5, "names": ["a", "b"]}


def test_selected_version_runs(browser: Browser, system: System) -> None:
    open_model(browser, "boxes:2")
    facts = browser.find(".model[data-name='boxes:2'] .model-facts").text
    assert "1: 100 %, 2: 0 %" in facts
    choose_file(browser, EXAMPLES / "chelsea.jpg")
    run(browser)
    job = job_of(browser, system)
    assert (job["model"], job["version"], job["status"]) == ("boxes", "2", "succeeded")


@pytest.mark.thorough
def test_entered_options_are_submitted(browser: Browser, system: System) -> None:
    open_text(browser, "noop", "hello")
    set_options(browser, deadline="200", label="order 4711")
    browser.run(
        "const select = document.querySelector('#priority'); select.value = 'low';"
        "select.dispatchEvent(new Event('input', {bubbles: true}))"
    )
    enter(browser, "#parameters-json", '{"a": 1}')
    run(browser)
    job = job_of(browser, system)
    assert job["label"] == "order 4711"
    assert "label order 4711" in browser.find("#options-summary").text
    (sent,) = (one for one in browser.requests if "/models/noop/jobs" in one.url)
    for option in ("deadline_seconds=200", "priority=low", "parameters=%7B%22a%22%3A1%7D"):
        assert option in sent.url


def test_large_payloads_pass_by_blob_storage(
    browser: Browser, system: System, tmp_path: Path
) -> None:
    content = os.urandom(1000) * (UPLOAD_BYTES // 1000)
    file = tmp_path / "large.bin"
    file.write_bytes(content)
    saved = tmp_path / "saved"
    saved.mkdir()
    behaviour = {"behavior": "allow", "downloadPath": str(saved)}
    browser.driver.execute_cdp_cmd("Browser.setDownloadBehavior", behaviour)
    open_model(browser, "echo")
    choose_file(browser, file)
    run(browser)
    click(browser, "#result a[download]")
    until(lambda: [one for one in saved.iterdir() if one.suffix == ".octetstream"], 30, "saved")
    (result,) = saved.iterdir()
    assert hashlib.sha256(result.read_bytes()).digest() == hashlib.sha256(content).digest()
    blobs = f"http://127.0.0.1:{system.part('blobs').ports['blobs']}/"
    others = [one for one in browser.requests if one.url.startswith(blobs)]
    assert {one.method for one in others} >= {"PUT", "GET"}
    assert [one.headers for one in others if "authorization" in one.headers] == []
    assert browser.messages == []


SIZES = {"chelsea.jpg": [384, 255], "coffee.jpg": [384, 256]}


def sent_job(browser: Browser, model: str) -> SentRequest:
    return [one for one in browser.requests if f"/models/{model}/jobs" in one.url][-1]


def test_named_inputs_are_parts_of_a_form(browser: Browser, system: System) -> None:
    open_model(browser, "pair")
    legends = [one.text for one in browser.find_all("#named-inputs legend")]
    assert legends == ["Input other", "Input note optional"]
    assert "The picture to compare with." in browser.find("#named-inputs").text
    choose_file(browser, EXAMPLES / "coffee.jpg")
    start(browser)
    browser.wait_for_text("#input-other-input-problem", "There is no input")
    assert browser.find_all("#input-problem .problem") == []
    drop_file(browser, EXAMPLES / "chelsea.jpg", "input-other-")
    assert "coffee.jpg" in browser.find("#preview .file").text
    run(browser)
    assert browser.find_all("#input-other-input-problem .problem") == []
    expected = {"image": SIZES["coffee.jpg"], "other": SIZES["chelsea.jpg"], "note": None}
    assert job_of(browser, system)["result"] == expected
    assert sent_job(browser, "pair").headers["content-type"].startswith("multipart/form-data")
    choose(browser, "input-note-modes", "json")
    enter(browser, "#input-note-text", '{"a": [1,')
    browser.wait_for_text("#input-note-text-check", "Not JSON")
    start(browser)
    browser.wait_for_text("#input-note-input-problem", "The input is not JSON")
    enter(browser, "#input-note-text", '{"a": [1, 2]}')
    run(browser)
    assert job_of(browser, system)["result"] == {**expected, "note": {"a": [1, 2]}}
    check_with_axe(browser)
    check_width(browser)
    assert browser.messages == []


def test_large_named_input_uploads_all_files(browser: Browser, system: System) -> None:
    open_model(browser, "pair")
    choose_file(browser, EXAMPLES / "chelsea.jpg")
    choose_file(browser, EXAMPLES / "coffee.jpg", "input-other-")
    choose(browser, "input-note-modes", "json")
    enter(browser, "#input-note-text", '"small"')
    run(browser)
    expected = {"image": SIZES["chelsea.jpg"], "other": SIZES["coffee.jpg"], "note": "small"}
    assert job_of(browser, system)["result"] == expected
    blobs = f"http://127.0.0.1:{system.part('blobs').ports['blobs']}/"
    stored = [one for one in browser.requests if one.url.startswith(blobs) and one.method == "PUT"]
    assert len(stored) == 2
    assert sent_job(browser, "pair").headers["content-type"] == "application/json"
    assert browser.messages == []


@pytest.mark.thorough
def test_only_the_models_named_inputs_are_offered(browser: Browser) -> None:
    open_model(browser, "pair")
    choose_file(browser, EXAMPLES / "chelsea.jpg", "input-other-")
    browser.run("return document.querySelector('#input-other-file')").send_keys(
        str(EXAMPLES / "speech.wav")
    )
    browser.wait_for_text("#input-other-input-problem", "The input other takes image/jpeg")
    click(browser, ".model[data-name='boxes']")
    browser.wait(lambda: not browser.find_all("#named-inputs legend"), "the inputs are still shown")
    choose_file(browser, EXAMPLES / "chelsea.jpg")
    run(browser)
    assert sent_job(browser, "boxes").headers["content-type"] == "image/jpeg"


@pytest.mark.thorough
def test_large_json_result_from_a_blob_is_shown(browser: Browser) -> None:
    run_file(browser, "large", "coffee.jpg")
    assert "xxx" in browser.find("#result .tree").text
    assert browser.messages == []


# --- The job ---


def test_queued_job_shows_its_position_and_cancels(browser: Browser, system: System) -> None:
    with system.paused("worker"):
        system.accept("noop", b"the job before")
        open_text(browser, "noop", "hello")
        set_options(browser, wait="0")
        start(browser)
        browser.wait_for_text("#badge", "queued")
        browser.wait_for_text("#job-facts", "Position")
        browser.wait_for_text("#job-facts", "Attempt")
        click(browser, "#cancel")
        browser.wait_for_text("#badge", "cancelled")
    assert "cancelled" in browser.find("#problem").text
    assert job_of(browser, system)["status"] == "cancelled"


def test_held_job_says_that_it_waits_for_its_share(browser: Browser, system: System) -> None:
    path = "/v1/admin/tenants/~"
    system.http.put(path, json={"max_running": 1}).raise_for_status()
    with system.paused("worker"):
        before = system.accept("noop", b"let in, and not taken by the worker")
        open_text(browser, "noop", "hello")
        set_options(browser, wait="0")
        start(browser)
        browser.wait_for_text("#job-facts", "Position in the tenant's jobs")
        click(browser, "#cancel")
        browser.wait_for_text("#badge", "cancelled")
    system.http.delete(path).raise_for_status()
    system.final(before)
    assert browser.messages == []


@pytest.mark.thorough
def test_cancel_button_works_during_the_submit(browser: Browser, system: System) -> None:
    with system.paused("worker"):
        open_text(browser, "noop", "wait long")
        set_options(browser, wait="100")
        start(browser)
        browser.wait_for_text("#badge", "sending")
        browser.wait(
            lambda: any("/models/noop/jobs" in one.url for one in browser.requests), "not sent"
        )
        click(browser, "#cancel")
        browser.wait_for_text("#badge", "cancelled")
    assert job_of(browser, system)["status"] == "cancelled"


@pytest.mark.thorough
def test_progress_is_shown_until_the_cancellation(
    browser: Browser, system: System, tmp_path: Path
) -> None:
    (tmp_path / "step-1").touch()
    open_text(browser, "slow", json.dumps({"folder": str(tmp_path), "steps": 2}))
    set_options(browser, wait="0")
    start(browser)
    browser.wait_for_text("#badge", "running")
    browser.wait_for_text("#progress-text", "step 1 of 2")
    assert browser.run("return document.querySelector('#progress').value") == 0.5
    check_with_axe(browser)
    browser.emulate()
    click(browser, "#cancel")
    browser.wait_for_text("#badge", "cancelled")
    assert job_of(browser, system)["status"] == "cancelled"
    assert browser.messages == []


# --- Streams ---

SHOWN = "#stream-view pre"


def open_stream(browser: Browser, model: str, folder: Path, **task: Any) -> None:
    open_text(browser, model, json.dumps({"folder": str(folder), **task}))


def release(folder: Path, *numbers: int) -> None:
    for number in numbers:
        (folder / f"chunk-{number}").touch()


def test_text_appears_as_it_comes(browser: Browser, system: System, tmp_path: Path) -> None:
    open_stream(browser, "teller", tmp_path, chunks=["The", " capital", " is Paris."])
    start(browser)
    release(tmp_path, 1)
    browser.wait(lambda: browser.text_of(SHOWN) == "The", "the first text is not shown")
    browser.wait_for_text("#badge", "running")
    browser.wait_for_text("#job-facts", "First token")
    check_with_axe(browser)
    check_width(browser)
    browser.emulate()
    release(tmp_path, 2)
    browser.wait(lambda: browser.text_of(SHOWN) == "The capital", "the next text is not shown")
    release(tmp_path, 3)
    browser.wait_for_text("#badge", "succeeded")
    browser.wait_for_text("#result", "The capital is Paris.")
    assert browser.text_of(SHOWN) == ""
    assert "Tokens a second" in browser.find("#job-facts").text
    assert "first_chunk" in browser.find("#timeline").text
    assert job_of(browser, system)["result"] == "The capital is Paris."
    assert browser.messages == []


def test_preview_is_replaced_by_the_next(browser: Browser, tmp_path: Path) -> None:
    pictures = []
    for width in (3, 5):
        file = picture(tmp_path, width)
        pictures.append(base64.b64encode(file.read_bytes()).decode())
    chunks = [f"data:image/png;base64,{pictures[0]}", {"b64_json": pictures[1]}, {"step": 3}]
    open_stream(browser, "painter", tmp_path, chunks=chunks, result={"done": True})
    set_options(browser)
    click(browser, "#stream")
    start(browser)
    read_width = "return document.querySelector('#stream-view img')?.naturalWidth"
    for number, expected in ((1, 3), (2, 5)):
        release(tmp_path, number)
        browser.wait(lambda: browser.run(read_width) == expected, "the preview is not shown")  # noqa: B023
    release(tmp_path, 3)
    browser.wait_for_text("#badge", "succeeded")
    browser.wait_for_text("#result", "done")
    # The result is JSON, so what was emitted stays.
    assert browser.text_of(SHOWN).strip() == '{"step":3}'
    assert len(browser.find_all("#stream-view img")) == 1


def test_chat_shows_the_text_of_its_chunks(browser: Browser, tmp_path: Path) -> None:
    release(tmp_path, 1, 2)
    open_model(browser, "chat")
    click(browser, ".sample[value='chat.completions.json']")
    assert "capital of France" in str(browser.find("#text").get_attribute("value"))
    chunks = [
        {"object": "chat.completion.chunk", "choices": [{"delta": {"content": text}}]}
        for text in ("Par", "is")
    ]
    result = {"object": "chat.completion", "choices": [{"message": {"content": "Paris"}}]}
    open_stream(browser, "chat", tmp_path, chunks=chunks, result=result)
    run(browser)
    assert browser.find("#result pre.text").text == "Paris"
    assert browser.text_of(SHOWN) == ""
    facts = browser.find("#job-facts").text
    assert "Tokens\n2" in facts
    browser.run("document.querySelector('#stream').checked = false")
    run(browser)
    assert browser.find("#result pre.text").text == "Paris"
    assert "Tokens" not in browser.find("#job-facts").text


def test_lost_worker_drops_the_text(browser: Browser, system: System, tmp_path: Path) -> None:
    open_stream(browser, "teller", tmp_path, chunks=["one", " two"])
    start(browser)
    release(tmp_path, 1)
    browser.wait(lambda: browser.text_of(SHOWN) == "one", "the text is not shown")
    (tmp_path / "chunk-1").unlink()
    system.kill_and_wait("worker")
    browser.wait(lambda: browser.text_of(SHOWN) == "", "the text of the lost worker is shown")
    release(tmp_path, 1, 2)
    browser.wait_for_text("#badge", "succeeded")
    browser.wait_for_text("#result", "one two")


def test_copied_code_reads_the_stream(browser: Browser, tmp_path: Path) -> None:
    release(tmp_path, 1, 2)
    open_stream(browser, "teller", tmp_path, chunks=["one", " two"])
    run(browser)
    for language in LANGUAGES:
        (tmp_path / "result.plain").unlink(missing_ok=True)
        printed = run_snippet(browser, language, tmp_path)
        assert " two" in printed
        assert "1-2" in printed
        if language != "curl":
            assert (tmp_path / "result.plain").read_text() == "one two"


# --- Problems ---


def picture(folder: Path, width: int) -> Path:
    path = folder / f"{width}.png"
    Image.new("RGB", (width, 1)).save(path)
    return path


def test_failed_job_shows_problem_and_advice(
    browser: Browser, system: System, tmp_path: Path
) -> None:
    open_model(browser, "boxes")
    for width, title, detail, code in (
        (1, "The input cannot be used", "only one pixel", "invalid-input"),
        (13, "The model failed", "", "inference-failed"),
    ):
        choose_file(browser, picture(tmp_path, width))
        run(browser, "failed")
        problem = browser.find("#problem .problem")
        assert title in problem.text
        assert detail in problem.text
        assert "What to do:" in problem.text
        assert code in problem.text
        assert browser.find("#timeline .steps")
    broken = tmp_path / "broken.jpg"
    broken.write_bytes((EXAMPLES / "chelsea.jpg").read_bytes()[:50])
    choose_file(browser, broken)
    start(browser)
    browser.wait_for_text("#problem", "invalid-input")
    assert "not accepted" in browser.find("#state").text

    open_text(browser, "noop", "late")
    set_options(browser, deadline="1", wait="10")
    with system.paused("worker"):
        run(browser, "expired")
    assert "The deadline passed" in browser.find("#problem").text


@pytest.mark.thorough
def test_unaccepted_input_is_not_sent(browser: Browser) -> None:
    open_model(browser, "classifier")
    start(browser)
    browser.wait_for_text("#input-problem", "There is no input")
    browser.run("return document.querySelector('#file')").send_keys(str(EXAMPLES / "speech.wav"))
    browser.wait_for_text("#input-problem", "speech.wav is audio/wav")
    click(browser, "#input-problem button")
    browser.wait_for_text("#preview .file", "speech.wav")
    assert browser.find(".model:has(:checked)").text.startswith("voice-activity")
    open_text(browser, "slow", "x" * 1200)
    start(browser)
    browser.wait_for_text("#problem", "payload-too-large")
    enter(browser, "#text", "x")
    set_options(browser, wait="1000")
    start(browser)
    browser.wait_for_text("#input-problem", "Enter a whole number from 0 to 200")
    assert [one for one in browser.requests if one.url.endswith("/jobs")] == []


@pytest.mark.thorough
def test_try_again_repeats_an_unsent_request(browser: Browser) -> None:
    open_text(browser, "noop", "hello")
    network: dict[str, object] = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    emulate = "Network.emulateNetworkConditions"
    browser.driver.execute_cdp_cmd(emulate, {**network, "offline": True})
    start(browser)
    browser.wait_for_text("#problem", "The gateway cannot be reached")
    browser.driver.execute_cdp_cmd(emulate, {**network, "offline": False})
    click(browser, "#problem button")
    browser.wait_for_text("#badge", "succeeded")
    assert browser.find_all("#problem .problem") == []


def test_each_problem_shows_details_and_advice(browser: Browser) -> None:
    open_model(browser, "noop")
    for kind in PROBLEM_KINDS.values():
        document = {
            "title": kind.title,
            "status": kind.status,
            "detail": f"what happened: {kind.code}",
            "code": kind.code,
            "retryable": kind.retryable,
            "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        }
        browser.driver.execute_async_script(
            "const [problem, done] = arguments;"
            "const files = ['problem', 'gateway'].map((name) => import(`/pages/${name}.js`));"
            "Promise.all(files).then((modules) => {"
            "  const place = document.querySelector('#problem');"
            "  const error = new modules[1].Problem(problem, 7);"
            "  modules[0].showProblem(place, error, () => {}); done(); })",
            document,
        )
        shown = browser.find("#problem .problem").text
        for text in (
            kind.title,
            kind.code,
            str(kind.status),
            "Try again in 7 s",
            document["detail"],
        ):
            assert str(text) in shown
        assert kind.advice.replace("`", "") in shown
        assert bool(browser.find_all("#problem button")) == kind.retryable


# --- The request as code ---


def copy_snippet(browser: Browser, language: str) -> str:
    permissions = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    browser.driver.execute_cdp_cmd("Browser.grantPermissions", permissions)
    choose(browser, "languages", language)
    click(browser, "#copy")
    browser.wait_for_text("#copied", "Copied")
    text: str = browser.driver.execute_async_script(
        "navigator.clipboard.readText().then(arguments[0])"
    )
    return text


PROGRAMS = {
    "curl": ("snippet.sh", "sh"),
    "Python": ("snippet.py", sys.executable),
    "JavaScript": ("snippet.mjs", "node"),
}
LANGUAGES = [language for language, (_, program) in PROGRAMS.items() if shutil.which(program)]
PROGRAMS["Command line"] = ("snippet.sh", "sh")  # for batches


def run_snippet(browser: Browser, language: str, folder: Path) -> str:
    """Copy the page's code in this language, run it in a folder, and return what it prints."""
    name, program = PROGRAMS[language]
    text = copy_snippet(browser, language)
    (folder / name).write_text(text, "utf-8")
    done = subprocess.run(
        [program, name],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{COMMANDS}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr + text
    return done.stdout


def result_of(browser: Browser, language: str, folder: Path) -> Any:
    printed = json.loads(run_snippet(browser, language, folder))
    return printed["result"] if language == "curl" else printed


def test_copied_code_prints_the_same_result(
    browser: Browser, system: System, tmp_path: Path
) -> None:
    for name in ("chelsea.jpg", "coffee.jpg"):
        shutil.copy(EXAMPLES / name, tmp_path)
    open_model(browser, "boxes")
    choose_file(browser, EXAMPLES / "chelsea.jpg")
    set_options(browser, wait="60", label="it's", **{"parameter-inset": "0.5"})
    run(browser)
    expected = job_of(browser, system)["result"]
    for language in LANGUAGES:
        assert result_of(browser, language, tmp_path) == expected
    # With a wait of 0 s, the command must ask again until the job has ended.
    set_options(browser, wait="0")
    assert result_of(browser, "curl", tmp_path) == expected

    open_model(browser, "noop")
    choose(browser, "modes", "json")
    enter(browser, "#text", '{"it\'s": "grün"}')
    run(browser)
    expected = job_of(browser, system)["result"]
    for language in LANGUAGES:
        assert result_of(browser, language, tmp_path) == expected

    run_file(browser, "mask", "coffee.jpg")
    mask = system.http.get(f"/v1/jobs/{browser.find('#job-facts code').text}/result").content
    for language in LANGUAGES:
        run_snippet(browser, language, tmp_path)
        assert (tmp_path / "result.png").read_bytes() == mask
        (tmp_path / "result.png").unlink()

    run_file(browser, "parts")
    job = job_of(browser, system)
    mask = system.http.get(job["results"]["mask"]["link"]).content
    for language in LANGUAGES:
        assert result_of(browser, language, tmp_path) == job["result"]
        assert (tmp_path / "mask.png").read_bytes() == mask
        assert json.loads((tmp_path / "large.json").read_text("utf-8")) == ["x" * 100_000]
        assert not (tmp_path / "note.plain").exists()
        (tmp_path / "mask.png").unlink()
        (tmp_path / "large.json").unlink()


def test_copied_code_sends_named_inputs(browser: Browser, tmp_path: Path) -> None:
    # Some of these characters have a meaning for curl and for shells.
    names = ("a picture; it's $1.jpg", "coffee.jpg")
    shutil.copy(EXAMPLES / "chelsea.jpg", tmp_path / names[0])
    shutil.copy(EXAMPLES / "coffee.jpg", tmp_path)
    sizes = dict(zip(names, SIZES.values(), strict=True))
    note = {"it's": 'grün "`${x}`\\ ;type=a'}
    open_model(browser, "pair")
    set_options(browser, wait="60", label="it's")
    choose(browser, "input-note-modes", "json")
    enter(browser, "#input-note-text", json.dumps(note, ensure_ascii=False))
    # The first request is a form, and the second one names uploads.
    for first, other in (names[::-1], names):
        choose_file(browser, tmp_path / first)
        choose_file(browser, tmp_path / other, "input-other-")
        expected = {"image": sizes[first], "other": sizes[other], "note": note}
        for language in LANGUAGES:
            assert result_of(browser, language, tmp_path) == expected


@pytest.mark.thorough
def test_copied_code_uploads_a_large_input(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "large.bin"
    file.write_bytes(bytes(11_000_000))
    open_model(browser, "noop")
    set_options(browser, wait="60")
    choose_file(browser, file)
    for language in LANGUAGES:
        found = result_of(browser, language, tmp_path)
        assert found["sha256"] == hashlib.sha256(bytes(11_000_000)).hexdigest()


def test_example_code_does_not_contain_the_key(browser: Browser) -> None:
    key = "lsy_an-api-key-that-only-this-test-uses"
    open_text(browser, "noop", "hello")
    click(browser, "header summary")
    browser.find("#api-key").send_keys(key, Keys.ENTER)
    browser.wait_for_text("header summary", "set")
    for language in ("curl", "Python", "JavaScript"):
        choose(browser, "languages", language)
        assert "LOOSELY_API_KEY" in browser.find("#snippet").text
        assert key not in browser.find("body").text
    run(browser)
    (sent,) = (one for one in browser.requests if one.url.endswith("/noop/jobs"))
    assert sent.headers["authorization"] == f"Bearer {key}"
    assert browser.run("return sessionStorage.length + localStorage.length") == 1


# --- The timeline ---


def draw(browser: Browser, timeline: dict[str, Any]) -> None:
    """Open the front page, and draw a timeline there with the gateway's script timeline.js."""
    browser.open("/")
    failure = browser.driver.execute_async_script(
        "const [timeline, done] = arguments;"
        "const sheet = document.createElement('link');"
        "sheet.rel = 'stylesheet'; sheet.href = '/pages/timeline.css';"
        "sheet.onload = () => import('/pages/timeline.js').then((module) => {"
        "  const place = document.createElement('div'); place.id = 'drawing';"
        "  document.querySelector('h1').after(place);"
        "  module.drawTimeline(place, timeline);"
        "  done(''); }).catch((error) => done(String(error)));"
        "document.head.append(sheet);",
        timeline,
    )
    assert not failure


def timeline_of(system: System) -> dict[str, Any]:
    job = system.submit("noop", b"hello", "text/plain").json()
    found: dict[str, Any] = system.http.get(f"/v1/jobs/{job['id']}/timeline").json()
    return found


def shown_milliseconds(text: str) -> float:
    """Return the first duration in a row's text, in milliseconds."""
    found = re.search(r"([0-9.]+) (ms|s)\b", text)
    assert found, text
    return float(found[1]) * (1 if found[2] == "ms" else 1000)


def test_each_step_has_a_proportional_bar(browser: Browser, system: System) -> None:
    timeline = timeline_of(system)
    draw(browser, timeline)
    rows = browser.find_all("#drawing .steps tbody tr")
    names = [row.text.split()[0] for row in rows]
    assert names == [step["name"] for step in timeline["steps"]]
    bars = browser.run(
        "return [...document.querySelectorAll('#drawing .steps tbody tr')].map((row) => {"
        "  const track = row.querySelector('.track'), bar = track.querySelector('.span');"
        "  const whole = track.clientWidth - parseFloat(getComputedStyle(track).paddingRight);"
        "  const left = track.getBoundingClientRect().left, place = bar?.getBoundingClientRect();"
        "  return bar && [(place.left - left) / whole, place.width / whole];"
        "})"
    )
    begin_ms = 0.0
    for step, bar, row in zip(timeline["steps"], bars, rows, strict=True):
        if step["duration_ms"] > 0:
            assert bar[0] == pytest.approx(begin_ms / timeline["total_ms"], abs=0.02), step
            assert bar[1] == pytest.approx(step["share"], abs=0.02), step
            # The page shows one decimal below a second, and hundredths of a second from there.
            rounding = 0.051 if step["duration_ms"] < 999.95 else 5.1
            assert shown_milliseconds(row.text) == pytest.approx(
                step["duration_ms"], rel=0, abs=rounding
            ), step
        begin_ms += step["duration_ms"]
    (delivery,) = browser.find_all("#drawing .deliveries tbody tr")
    assert "answered" in delivery.text
    assert timeline["deliveries"][0]["worker"] in delivery.text
    assert timeline["trace_id"] in browser.find("#drawing").text
    assert browser.messages == []


def test_lost_deliveries_skew_and_webhooks_are_shown(browser: Browser, system: System) -> None:
    timeline = timeline_of(system)
    answered = timeline["deliveries"][0] | {"number": 2}
    lost = answered | {"number": 1, "state": "lost", "received_at": None, "duration_ms": None}
    lost |= {"worker": None, "earliest_at": timeline["accepted_at"]}
    lost |= {"latest_at": timeline["final_at"]}
    timeline["deliveries"] = [lost, answered]
    timeline["steps"][1]["is_adjusted"] = True
    timeline["clock_skew"] = [{"clock": "worker", "worker": "box-7", "ahead_ms": -1500.0}]
    attempt = {"at": timeline["final_at"], "status": 503, "error": None}
    timeline["webhook"] = {"state": "pending", "attempts": [attempt], "next_attempt_at": None}
    draw(browser, timeline)
    assert "nothing is known" in browser.find("#drawing .deliveries tbody tr").text
    assert "*" in browser.find_all("#drawing .steps tbody th")[1].text
    assert "box-7 is at least 1.50 s behind" in browser.find("#drawing").text
    assert "503" in browser.find("#drawing .webhook").text


# --- The page ---


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("classifier", "chelsea.jpg"),
        pytest.param("voice-activity", "speech.wav", marks=pytest.mark.thorough),
        pytest.param("boxes", "chelsea.jpg", marks=pytest.mark.thorough),
        pytest.param("mask", "coffee.jpg", marks=pytest.mark.thorough),
    ],
)
def test_axe_finds_no_fault_in_a_result(browser: Browser, model: str, name: str) -> None:
    open_model(browser, model)
    check_with_axe(browser)
    browser.emulate()
    choose_file(browser, EXAMPLES / name)
    set_options(browser)
    run(browser)
    browser.find("#timeline .steps")
    for details in browser.find_all("#result details"):
        browser.run("arguments[0].open = true", details)
    check_with_axe(browser)
    check_width(browser)
    assert browser.messages == []


# --- Batches ---


def pictures(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"picture {number}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        shutil.copy(EXAMPLES / ("chelsea.jpg", "coffee.jpg")[number % 2], path)
    return paths


def write_lines(folder: Path, *lines: dict[str, Any]) -> Path:
    path = folder / "lines.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def download(browser: Browser, name: str, folder: Path) -> list[dict[str, Any]]:
    """Download the results or the errors of the batch, and return their lines."""
    behaviour = {"behavior": "allow", "downloadPath": str(folder)}
    browser.driver.execute_cdp_cmd("Browser.setDownloadBehavior", behaviour)
    click(browser, f"#result button[value={name}]")
    (path,) = until(lambda: [*folder.glob(f"*-{name}.jsonl")], 30, "the file is there")
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_dropped_pictures_become_a_batch(browser: Browser, tmp_path: Path) -> None:
    files = pictures(tmp_path, 20)
    open_model(browser, "classifier")
    drop_files(browser, *files)
    browser.wait_for_text("#preview .file", "20 files")
    assert len(browser.find_all("#preview img")) == 20
    run(browser)
    browser.wait_for_text("#state", "All lines have ended")
    rows = browser.find_all("#result tbody tr")
    assert [row.get_dom_attribute("data-line") for row in rows] == [path.name for path in files]
    assert "Egyptian cat" in rows[0].text
    assert "espresso" in rows[1].text
    click(browser, "[data-line='picture 2.jpg'] button")
    browser.wait_for_text("#result .labels", "Egyptian cat")
    results = download(browser, "results", tmp_path)
    assert [line["custom_id"] for line in results] == [path.name for path in files]
    assert not browser.find_all("#result button[value=errors]")[0].is_displayed()
    check_with_axe(browser)
    check_width(browser)
    assert browser.messages == []


def test_lines_of_a_jsonl_file_run(browser: Browser, tmp_path: Path) -> None:
    lines = [
        {"custom_id": f"<img src=x> {number}", "input": {"text": f"<b>{number}</b>"}}
        for number in range(150)
    ]
    open_model(browser, "noop")
    drop_file(browser, write_lines(tmp_path, *lines))
    set_options(browser, label="from the playground")
    run(browser)
    browser.wait_for_text("#result", "The first 100 of 150 lines")
    assert len(browser.find_all("#result tbody tr")) == 100
    assert browser.find_all("#result :is(img, b)") == []
    browser.wait_for_text("#job-facts", "from the playground")
    assert len(download(browser, "results", tmp_path)) == 150
    assert browser.messages == []


@pytest.mark.thorough
def test_refused_lines_are_named(browser: Browser, tmp_path: Path) -> None:
    lines = ({"custom_id": "1", "input": {"text": "x"}}, {"custom_id": "<b>", "input": 1})
    open_model(browser, "noop")
    drop_file(browser, write_lines(tmp_path, *lines))
    run(browser, "failed")
    browser.wait_for_text("#problem", "The batch was refused")
    browser.wait_for_text("#problem .refused", "Line 2 (<b>): ")
    assert browser.find_all("#problem b") == []
    check_with_axe(browser)


@pytest.mark.thorough
def test_copied_batch_code_gets_the_results(browser: Browser, tmp_path: Path) -> None:
    names = ["it's 1.jpg", "2.jpg"]
    for name in names:
        shutil.copy(EXAMPLES / "chelsea.jpg", tmp_path / name)
    open_model(browser, "boxes")
    drop_files(browser, *(tmp_path / name for name in names))
    browser.wait_for_text("#preview .file", "2 files")
    set_options(browser, label="it's", **{"parameter-inset": "0.5"})
    printed = run_snippet(browser, "Python", tmp_path)
    assert printed.count("'succeeded'") == 2
    run_snippet(browser, "Command line", tmp_path)
    results = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [line["custom_id"] for line in results] == names
    assert [repr(line["result"]) in printed for line in results] == [True, True]


@pytest.mark.thorough
def test_batch_is_cancelled_and_keeps_its_results(
    browser: Browser, system: System, tmp_path: Path
) -> None:
    (tmp_path / "step-1").touch()
    orders = [{"folder": str(tmp_path), "steps": steps} for steps in (1, 2)]
    open_model(browser, "slow")
    drop_file(
        browser,
        write_lines(
            tmp_path,
            *(
                {"custom_id": f"order {number}", "input": {"text": json.dumps(order)}}
                for number, order in enumerate(orders)
            ),
        ),
    )
    start(browser)
    browser.wait_for_text("[data-line='order 0']", "succeeded")
    click(browser, "#cancel")
    browser.wait_for_text("#badge", "cancelled")
    assert [line["custom_id"] for line in download(browser, "results", tmp_path)] == ["order 0"]
    assert [line["custom_id"] for line in download(browser, "errors", tmp_path)] == ["order 1"]
    link = str(browser.find("#job-facts a").get_dom_attribute("href"))
    browser.open(link)
    browser.wait_for_text("#batch-status", "cancelled")


@pytest.mark.thorough
def test_files_that_make_no_batch_are_refused(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("text")
    lines = write_lines(tmp_path, {"custom_id": "1", "input": {"text": "x"}})
    open_model(browser, "classifier")
    drop_files(browser, *pictures(tmp_path, 2), tmp_path / "note.txt")
    browser.wait_for_text("#input-problem", "note.txt is text/plain")
    drop_files(browser, *pictures(tmp_path, 2), lines)
    browser.wait_for_text("#input-problem", "A JSONL file is a batch by itself")
    open_model(browser, "pair")
    drop_files(browser, *pictures(tmp_path, 2))
    browser.wait_for_text("#input-problem", "Each line needs the input other")
    assert browser.find_all("#preview *") == []
    assert not any("/v1/uploads" in one.url for one in browser.requests)


@pytest.mark.thorough
def test_axe_finds_no_fault_in_a_problem(browser: Browser, tmp_path: Path) -> None:
    open_model(browser, "boxes")
    choose_file(browser, picture(tmp_path, 1))
    run(browser, "failed")
    check_with_axe(browser)
    check_width(browser)


def test_keyboard_is_enough(browser: Browser) -> None:
    open_model(browser, "classifier")
    tab_to(browser, ".model input")
    press(browser, Keys.ARROW_DOWN)
    browser.wait(
        lambda: browser.find(".model:has(:checked)").text.startswith("voice-activity"),
        "the next model is not chosen",
    )
    tab_to(browser, "button[value='speech.wav']")
    press(browser, Keys.ENTER)
    browser.wait_for_text("#preview .file", "speech.wav")
    tab_to(browser, "#run")
    press(browser, Keys.ENTER)
    browser.wait_for_text("#badge", "succeeded")
    browser.find("#timeline .steps")
    tab_to(browser, "#result tbody button")
    tab_to(browser, "#result summary")
    press(browser, Keys.ENTER)
    tab_to(browser, "#languages input")
    press(browser, Keys.ARROW_RIGHT)
    browser.wait_for_text("#snippet", "from loosely import Client")
    tab_to(browser, "#copy")
