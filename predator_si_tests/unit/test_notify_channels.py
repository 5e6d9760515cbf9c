"""Slack's and Apprise's contracts on loopback, and that no address gets into a text or a log."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from predator_si.contour import ContourValues
from predator_si.errors import BadInput, Missing, Refused, Unavailable
from predator_si.notify import AppriseChannel, Event, Secrets, SlackChannel, channels_of
from predator_si.notify.channels import blocks
from predator_si_tests.support.chat_peers import SECRET_PATH, apprise_json, slack
from predator_si_tests.support.waiting import free_port


def event(**changes: str) -> Event:
    facts = {"kind": "rollback", "severity": "critical", "title": "si_2026_11_23_001 was rolled back", "text": "ndcg_at_10 0.41 < 0.60 & <b>",
             "link": "http://127.0.0.1:8000/cycles/si_2026_11_23_001", "next_step": "Read the report.", "key": "rollback:1"}  # fmt: skip
    return Event.model_validate(facts | changes)


def test_slack_gets_title_facts_next_step_and_link():
    with slack() as peer:
        SlackChannel(peer.address).send(event())
    (body,) = peer.taken
    said = str(body["blocks"])
    assert peer.refused == []
    assert "was rolled back" in body["text"] and "ndcg_at_10 0.41 &lt; 0.60 &amp; &lt;b&gt;" in said
    assert "*Next:* Read the report." in said and "<http://127.0.0.1:8000/cycles/si_2026_11_23_001|open>" in said


def test_a_long_message_stays_within_slacks_limits():
    with slack() as peer:
        SlackChannel(peer.address).send(event(title="t" * 400, text="&" * 9000, next_step="n" * 9000))
    assert len(peer.taken) == 1 and peer.refused == []
    assert all(len(block["text"]["text"]) <= 3000 for block in blocks(event(text="<" * 5000)) if "text" in block)


@pytest.mark.parametrize(("mood", "error"), [("gone", Refused), ("broken", Unavailable), ("busy", Unavailable)])
def test_slacks_no_is_told_without_its_address(mood: str, error: type[Exception], caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    with slack() as peer:
        peer.mood = mood
        with pytest.raises(error) as caught:
            SlackChannel(peer.address).send(event())
    assert getattr(caught.value, "retry_after", 0.0) == (120.0 if mood == "busy" else 0.0)
    assert "verysecretpartofit" not in str(caught.value) + caplog.text and "B0000BBBB" not in str(caught.value) + caplog.text


def test_a_dead_address_is_unavailable_and_stays_secret(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    with pytest.raises(Unavailable) as caught:
        SlackChannel(f"http://127.0.0.1:{free_port()}{SECRET_PATH}").send(event())
    assert "verysecretpartofit" not in str(caught.value) + caplog.text


def test_apprise_reaches_a_json_receiver_and_keeps_its_password(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    with apprise_json() as peer:
        AppriseChannel(peer.address).send(event())
        peer.mood = "broken"
        with pytest.raises(Unavailable) as caught:
            AppriseChannel(peer.address).send(event())
    (body,) = peer.taken
    assert body["title"] == "si_2026_11_23_001 was rolled back" and body["type"] == "failure"
    assert "Next: Read the report." in body["message"] and "/cycles/si_2026_11_23_001" in body["message"]
    assert "correcthorsebattery" not in str(caught.value) + caplog.text and "verysecretpath" not in str(caught.value) + caplog.text


def test_apprise_refuses_what_it_does_not_know():
    with pytest.raises(Refused, match="does not understand"):
        AppriseChannel("nosuchservice://token123456").send(event())


def test_secrets_come_from_the_environment_or_a_file(tmp_path: Path):
    (tmp_path / "team-slack").write_text("https://hooks.example/T1/B1/abcdefgh\n")
    secrets = Secrets(env={"OTHER_ONE": "tokenfromenv"}, folder=tmp_path)
    assert secrets.get("team-slack") == "https://hooks.example/T1/B1/abcdefgh"
    assert secrets.get("other-one") == "tokenfromenv"
    assert secrets.scrub("posting to https://hooks.example/T1/B1/abcdefgh with tokenfromenv") == "posting to [secret] with [secret]"
    assert "abcdefgh" not in secrets.scrub("path /T1/B1/abcdefgh")
    with pytest.raises(Missing, match=r"NO_SUCH.*no-such"):
        secrets.get("no-such")
    with pytest.raises(BadInput):
        secrets.get("../../etc/passwd")


def values(**notify: object) -> ContourValues:
    return ContourValues.model_validate({"monitoring": {"slackWebhook": "team-slack"}, "notify": notify})


def test_channels_of_a_contour_and_why_one_is_left_out():
    env = {"TEAM_SLACK": "https://hooks.example/T1/B1/abcdefgh", "PAGERS": "json://127.0.0.1:1/a\njson://127.0.0.1:1/b"}
    said = values(channels=["slack", "apprise"], appriseSecret="pagers")
    found, problems = channels_of(said.notify, said.monitoring, Secrets(env=env))
    assert [channel.name for channel in found] == ["slack", "apprise-1", "apprise-2"] and problems == []
    found, problems = channels_of(said.notify, said.monitoring, Secrets(env={}, folder=Path("nowhere")))
    assert found == [] and len(problems) == 2 and "TEAM_SLACK" in problems[0] and "PAGERS" in problems[1]
    found, problems = channels_of(said.notify, said.monitoring, Secrets(env={"TEAM_SLACK": "http://plain.example/x", "PAGERS": "json://127.0.0.1:1/a"}))
    assert [channel.name for channel in found] == ["apprise-1"] and "https" in problems[0] and "plain.example" not in problems[0]


def test_an_address_in_the_values_is_refused():
    with pytest.raises(ValueError, match="name of a secret"):
        values(channels=["apprise"], appriseSecret="json://127.0.0.1/hook")
