"""A person before the operations page, in a real Chromium: by mouse and by keyboard, with and without scripts; what they do stands in the control database."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import uvicorn

from predator_si.api.app import create_app
from predator_si.api.operations.texts import phrase
from predator_si.control.pages import RecordQuery
from predator_si.home import Home
from predator_si.orchestration.loop import Loop
from predator_si.records import CycleState
from predator_si.settings import Ports, load_settings
from predator_si_tests.support.browser import ABSENT, Page, browser, browser_is_here
from predator_si_tests.support.operations import lived_in, nobody_answers, waiting_cycle
from predator_si_tests.support.waiting import free_port, wait_until

pytestmark = [pytest.mark.live, pytest.mark.skipif(not browser_is_here(), reason=ABSENT)]

CONTRAST = """
(() => {
  const channel = (v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const behind = (node) => {
    for (let one = node; one; one = one.parentElement) {
      const colour = parse(getComputedStyle(one).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((one) => one.nodeType === 3 && one.textContent.trim());
    if (!own || !node.checkVisibility() || node.closest("svg") || node.closest(".unseen")) continue;
    const [a, b] = [light(parse(getComputedStyle(node).color)), light(behind(node))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) poor.push(`${node.tagName} ${node.className} ${node.textContent.trim().slice(0, 30)}: ${ratio.toFixed(2)}`);
  }
  return poor;
})()
"""
"""WCAG 2.2, 1.4.3: text and what lies behind it."""
FOCUS = """
(() => { const one = document.activeElement, style = getComputedStyle(one), box = one.getBoundingClientRect();
  return {tag: one.tagName, id: one.id, text: (one.innerText || "").slice(0, 30), outline: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
          seen: box.width > 0 && box.left >= 0}; })()
"""


class Person:
    """Somebody before a tab."""

    def __init__(self, page: Page, base: str) -> None:
        self.page, self.base = page, base

    def go(self, path: str, **how: Any) -> None:
        self.page.open(f"{self.base}{path}", **how)

    def key(self, name: str, code: int, text: str = "") -> None:
        facts = {"key": name, "code": name, "windowsVirtualKeyCode": code} | ({"text": text} if text else {})
        self.page.ask("Input.dispatchKeyEvent", type="keyDown", **facts)
        self.page.ask("Input.dispatchKeyEvent", type="keyUp", **facts)

    def tab(self) -> dict[str, Any]:
        self.key("Tab", 9)
        found: dict[str, Any] = self.page.value(FOCUS)
        return found

    def enter(self) -> None:
        self.key("Enter", 13, "\r")

    def write(self, selector: str, text: str) -> None:
        self.page.value(f"document.querySelector({selector!r}).focus()")
        self.page.ask("Input.insertText", text=text)

    def click(self, selector: str) -> None:
        box = self.page.value(
            f"(() => {{ const one = document.querySelector({selector!r}); one.scrollIntoView(); const b = one.getBoundingClientRect();"
            " return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        for what in ("mousePressed", "mouseReleased"):
            self.page.ask("Input.dispatchMouseEvent", type=what, x=box[0], y=box[1], button="left", clickCount=1)

    def text(self) -> str:
        return str(self.page.value("document.body ? document.body.innerText : ''"))

    def sees(self, words: str) -> None:
        wait_until(lambda: words in self.text(), 30, f"{words!r} on the page")

    def foreign(self) -> list[str]:
        """What the browser complained of, and what it asked of anybody but this page's host."""
        return [one for one in self.page.complaints if not one.startswith(f"asked for {self.base}/")]


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Loop:
    settings = load_settings(home=Home(tmp_path_factory.mktemp("operations") / "home").ensure().path, env={})
    return lived_in(settings.model_copy(update={"ports": Ports(api=free_port())}))


@pytest.fixture(scope="module")
def person(loop: Loop) -> Iterator[Person]:
    away, port = httpx.MockTransport(nobody_answers), loop.settings.ports.api
    server = uvicorn.Server(
        uvicorn.Config(create_app(loop.settings, dagster=away, search=away), host="127.0.0.1", port=port, log_config=None, access_log=False)
    )
    serving = threading.Thread(target=server.run, name="operations page")
    serving.start()
    try:
        wait_until(lambda: server.started, 60, "the API")
        with browser() as page:
            yield Person(page, f"http://127.0.0.1:{port}")
    finally:
        server.should_exit = True
        serving.join(30)


def test_it_reads_well_in_both_languages_on_any_screen_light_and_dark(loop: Loop, person: Person) -> None:
    active = loop.control.active_cycle(loop.contour)
    assert active is not None
    for path in ("/", f"/operations/cycles/{active.cycle_id}", "/operations/audit", "/operations/kill-switch", "/operations/results"):
        for lang, width, dark in (("en", 1200, False), ("uk", 390, True), ("uk", 1200, False)):
            person.go(f"{path}?lang={lang}", width=width, dark=dark)
            assert person.page.value("document.documentElement.lang") == lang
            assert person.page.value("document.documentElement.scrollWidth") <= width, f"{path} in {lang} is wider than {width}"
            assert person.page.value(CONTRAST) == [], f"{path} in {lang}, dark: {dark}"
            assert person.page.value("document.styleSheets.length") == 1, "the policy lets our own style in"
            assert person.foreign() == [], path
    person.page.value("document.querySelector('h1').style.color = getComputedStyle(document.querySelector('section')).backgroundColor")
    assert len(person.page.value(CONTRAST)) == 1, "the check sees what cannot be read"


def test_the_keyboard_reaches_everything_and_the_focus_is_seen(person: Person) -> None:
    person.go("/?lang=en")
    first = person.tab()
    assert first["text"] == phrase("skip", "en") and first["seen"]
    person.enter()
    assert person.page.value("location.hash") == "#content"
    person.go("/?lang=uk")
    stops = [person.tab() for _ in range(24)]
    assert all(stop["outline"] and stop["seen"] for stop in stops), [stop for stop in stops if not (stop["outline"] and stop["seen"])]
    ids = [stop["id"] for stop in stops]
    assert "language" in ids and "kill-switch" in ids and ids.index("language") < ids.index("kill-switch"), "in the order of reading"
    assert any(stop["tag"] == "TEXTAREA" for stop in stops)


def test_what_changes_is_shown_and_said_without_a_reload(loop: Loop, person: Person) -> None:
    person.go("/?lang=en")
    person.page.value("window.sameDocument = true")
    loop.control.append("note", "cli:ann", None, "written while somebody looks", {})
    person.page.value("document.dispatchEvent(new Event('visibilitychange'))")  # the script asks now instead of within 15 s
    person.sees("written while somebody looks")
    assert person.page.value("window.sameDocument") is True
    assert phrase("audit_newest", "en") in person.page.value("document.getElementById('announce').textContent")
    person.write("#approvals textarea", "half a thought")
    loop.control.append("note", "cli:ann", None, "written while somebody writes", {})
    person.page.value("document.dispatchEvent(new Event('visibilitychange'))")
    person.sees("written while somebody writes")
    assert person.page.value("document.querySelector('#approvals textarea').value") == "half a thought", "what somebody writes stays"
    person.click("#pause")
    assert person.page.value("document.getElementById('pause').textContent") == phrase("resume", "en")


def test_a_person_switches_the_language_opens_the_cycle_and_approves(loop: Loop, person: Person) -> None:
    active = loop.control.active_cycle(loop.contour)
    assert active is not None
    person.go("/?lang=en")
    person.click("#language")
    person.sees(phrase("now_waiting", "uk"))
    person.click("#open-cycle")
    person.sees(f"{phrase('cycle', 'uk')} {active.cycle_id}")
    assert person.page.value("document.querySelector('[aria-current=step]').innerText").startswith(phrase("state_awaiting_approval", "uk"))
    person.click("button[value=approve]")
    assert person.page.value("document.querySelector('textarea').matches(':invalid')"), "the browser itself asks for a reason"
    person.write("textarea", "інтервал мене переконує")
    person.click("button[value=approve]")
    person.sees(phrase("done_approve", "uk"))
    asked = loop.control.approval(active.cycle_id)
    assert asked is not None and (asked.decision, asked.actor, asked.reason) == ("approved", "api:local", "інтервал мене переконує")
    assert phrase("approve", "uk") not in person.text()


def test_a_person_presses_the_kill_switch_in_two_steps(loop: Loop, person: Person) -> None:
    person.go("/?lang=en")
    person.click("#kill-switch")
    person.sees(phrase("kill_title_stop", "en"))
    person.click("#cancel")
    person.sees(phrase("now", "en"))
    assert not loop.control.kill_switch(loop.contour)
    person.click("#kill-switch")
    person.sees(phrase("kill_title_stop", "en"))
    person.write("#reason", "release freeze")
    assert person.tab()["id"] == "confirm", "the button follows the reason"
    person.enter()
    person.sees(phrase("now_stopped", "en"))
    assert phrase("done_stop", "en") in person.text() and phrase("kill_lift", "en") in person.text()
    assert loop.control.kill_switch(loop.contour)
    (record,) = loop.control.search(RecordQuery(action="kill_switch_on"), 9)
    assert (record.actor, record.reason) == ("api:local", "release freeze")


def test_a_person_searches_the_ledger(loop: Loop, person: Person) -> None:
    loop.control.append("gate_overridden", "cli:ann", None, "a quiet night", {"metric": "ndcg_at_10"})
    person.go("/?lang=en")
    person.write("#audit-text", "QUIET night")
    person.enter()
    person.sees(phrase("audit_found", "en"))
    assert person.page.value("document.querySelectorAll('#found tbody tr').length") == 1
    assert "a quiet night" in person.text() and person.page.value("document.querySelector('#audit-text').value") == "QUIET night"
    person.click("summary")
    wait_until(lambda: "ndcg_at_10" in person.text(), 10, "the details")
    person.write("#audit-actor", "nobody")
    person.enter()
    person.sees(phrase("audit_none", "en"))


def test_without_scripts_everything_can_still_be_done(loop: Loop, person: Person) -> None:
    """The kill switch stands as the test before left it; a rejection is no promotion, so it goes through."""
    for cycle in loop.control.cycles(5, loop.contour):
        if cycle.state is CycleState.AWAITING_APPROVAL:
            loop.control.transition(cycle.cycle_id, CycleState.CANCELLED, "a test goes on", "test")
    loop.control.set_kill_switch(loop.contour, False, "test", "a test goes on")
    cycle_id = waiting_cycle(loop)
    person.page.ask("Emulation.setScriptExecutionDisabled", value=True)
    try:
        person.go("/?lang=en")
        assert person.page.value("document.getElementById('pause')") is None, "no script ran"
        person.click("#open-cycle")
        person.sees(f"{phrase('cycle', 'en')} {cycle_id}")
        person.write("textarea", "not this one")
        person.click("button[value=reject]")
        person.sees(phrase("done_reject", "en"))
    finally:
        person.page.ask("Emulation.setScriptExecutionDisabled", value=False)
    assert loop.control.cycle(cycle_id).state is CycleState.REJECTED
