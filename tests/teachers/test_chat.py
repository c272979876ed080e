"""Danger: a service is asked twice, believed when it lies, waited for forever, or told about in logs with its key."""

import json
import logging
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

pytest.importorskip("httpx", reason="language models as teachers need the extra `chat`")

from hf_structkd.teachers import chat
from hf_structkd.teachers.chat import ChatError, ChatTeacher, Mention, align, parse_reply
from hf_structkd.teachers.kinds import load_teacher

KEY = "sk-secret-1234"
SENTENCES = [["Anna", "Berg", "sings", "in", "Bonn"], ["Nobody", "sings"]]
ENTITIES = {
    "Anna Berg sings in Bonn": [{"text": "Anna Berg", "type": "PER"}, {"text": "Bonn", "type": "LOC"}],
    "Nobody sings": [],
}


class Service:
    """A loopback chat-completions server that behaves as it is told, request by request."""

    def __init__(self):
        self.requests, self.behave, self.asked = [], lambda number, sentence: None, Counter()
        self.pause = 0.0  # seconds after each letter of an answer
        service = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                sentence = body["messages"][1]["content"]
                service.requests.append((self.path, dict(self.headers), body))
                service.asked[sentence] += 1
                answer = service.behave(len(service.requests), sentence)
                status, headers, text = answer or (200, {}, service.reply(json.dumps(ENTITIES[sentence])))
                if status is None:  # dies in the middle
                    self.connection.close()
                    return
                self.send_response(status)
                for name, value in {"Content-Length": str(len(text.encode())), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                for part in text if service.pause else [text]:
                    self.wfile.write(part.encode())
                    if service.pause:
                        time.sleep(service.pause)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.handle_error = lambda *args: None
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @staticmethod
    def reply(content):
        usage = {"prompt_tokens": 50, "completion_tokens": 7}
        return json.dumps({"choices": [{"message": {"content": content}}], "usage": usage})


@pytest.fixture
def service(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(chat, "_LONGEST_WAIT", 0.05)
    running = Service()
    yield running
    running.server.shutdown()
    running.server.server_close()


def teacher_of(service, tmp_path, **options):
    options = {"record": tmp_path / "answers.jsonl", "timeout": 5, "retries": 3} | options
    return ChatTeacher("m", {"PER": "people", "LOC": ""}, endpoint=service.endpoint, **options)


def test_a_good_service_is_asked_once_for_every_sentence(service, tmp_path):
    teacher = teacher_of(service, tmp_path)
    expected = [["B-PER", "I-PER", "O", "O", "B-LOC"], ["O", "O"]]
    assert teacher.tag(SENTENCES) == expected
    assert teacher.usage["requests"] == 2
    assert (teacher.usage["prompt_tokens"], teacher.usage["completion_tokens"]) == (100, 14)
    path, headers, body = service.requests[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert body["temperature"] == 0
    assert "- PER: people\n- LOC\n" in body["messages"][0]["content"]
    assert '[{"text": "...", "type": "..."}, ...]' in body["messages"][0]["content"]
    again = teacher_of(service, tmp_path)
    assert again.tag(SENTENCES) == expected
    assert again.usage["requests"] == 0, "answers are kept"
    assert again.revision == teacher.revision
    other = teacher_of(service, tmp_path, prompt='Find {types}: {"a": {"b": {}}}, {{not ours}}')
    assert other.revision != teacher.revision
    assert other.instruction.endswith(': {"a": {"b": {}}}, {{not ours}}'), "a prompt's own braces stay"


def test_frequencies_of_samples_are_probabilities(service, tmp_path):
    def unsure(number, sentence):
        others = [{"text": "Anna", "type": "PER"}] if service.asked[sentence] == 2 and "Anna" in sentence else None
        return None if others is None else (200, {}, service.reply(json.dumps(others)))

    service.behave = unsure
    teacher = teacher_of(service, tmp_path, samples=4, concurrency=1)
    paths = teacher.distribution(SENTENCES).topk(3)
    assert paths.log_prob[0][paths.valid[0]].exp().tolist() == pytest.approx([0.75, 0.25])
    assert paths.log_prob[1][paths.valid[1]].exp().tolist() == pytest.approx([1.0])
    assert service.requests[0][2]["temperature"] == 0.7


def test_passing_failures_are_tried_again_as_the_service_wants(service, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(chat.time, "sleep", lambda seconds: waits.append(seconds))
    monkeypatch.setattr(chat, "_LONGEST_WAIT", 60.0)
    failures = {
        1: (429, {"Retry-After": "7"}, "slow down"),
        2: (503, {}, "busy"),
        3: (200, {}, "not JSON at all"),
    }
    service.behave = lambda number, sentence: failures.get(number)
    assert teacher_of(service, tmp_path, concurrency=1).tag(SENTENCES[1:]) == [["O", "O"]]
    assert waits[0] == 7
    assert 0 < waits[1] < waits[2] * 4


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        ((401, {}, f"wrong key {KEY}"), r"status 401: wrong key \*\*\*"),
        ((503, {}, "busy"), "status 503: busy"),
        ((None, {}, ""), "RemoteProtocolError|ReadError"),
        ((200, {}, '{"choices": []}'), "no chat completion"),
    ],
)
def test_a_service_that_fails_for_good_is_named_and_nothing_is_lost(service, tmp_path, failure, message, caplog):
    caplog.set_level(logging.DEBUG)
    service.behave = lambda number, sentence: failure if "Anna" in sentence else None
    teacher = teacher_of(service, tmp_path, concurrency=1, retries=1)
    with pytest.raises(
        ChatError, match=f"chat:m at {service.endpoint} gives no answer .*({message}).*are kept"
    ) as raised:
        teacher.tag([SENTENCES[1], *SENTENCES])
    assert KEY not in str(raised.value) + caplog.text
    service.behave = lambda number, sentence: None
    before = service.asked["Nobody sings"]
    assert teacher_of(service, tmp_path).tag(SENTENCES[1:]) == [["O", "O"]]
    assert service.asked["Nobody sings"] == before
    kept = "".join(file.read_text() for file in tmp_path.iterdir())
    assert KEY not in kept
    assert KEY not in json.dumps(teacher.identity())


def test_a_service_that_is_down_or_slow_is_no_endless_wait(service, tmp_path):
    def slow(number, sentence):
        time.sleep(0.5)

    service.behave = slow
    with pytest.raises(ChatError, match="ReadTimeout"):
        teacher_of(service, tmp_path, timeout=0.1, retries=0).tag(SENTENCES[1:])
    down = ChatTeacher("m", ["PER"], endpoint="http://127.0.0.1:9/v1", retries=0, record=tmp_path / "x")
    with pytest.raises(ChatError, match="ConnectError"):
        down.tag(SENTENCES[1:])


def test_a_service_that_sends_a_letter_now_and_then_is_too_slow(service, tmp_path):
    """The timeout of the HTTP library is one of each read, so such a request never ended."""
    service.pause = 0.02
    started = time.monotonic()
    with pytest.raises(ChatError, match=r"no whole answer within 0\.2 s"):
        teacher_of(service, tmp_path, timeout=0.2, retries=0).tag(SENTENCES[:1])
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    ("wait", "usage"),
    [("-5", None), ("nan", "many"), ("soon", {"prompt_tokens": "ten"}), ("1e400", {"prompt_tokens": -3}), ("0", [1])],
)
def test_nonsense_beside_the_answer_ends_no_run(service, tmp_path, wait, usage):
    fine = json.dumps({"choices": [{"message": {"content": "[]"}}], "usage": usage})
    service.behave = lambda number, sentence: (429, {"Retry-After": wait}, "") if number == 1 else (200, {}, fine)
    teacher = teacher_of(service, tmp_path)
    assert teacher.tag(SENTENCES[1:]) == [["O", "O"]]
    assert teacher.usage["prompt_tokens"] == 0


@pytest.mark.parametrize(
    "reply",
    [
        [{"entity": "Anna Berg", "label": "PER"}],
        [{"text": "Anna Berg", "type": "PER"}, {"text": "Bonn", "type": None}],
        [{"text": ["Anna", "Berg"], "type": "PER"}],
    ],
)
def test_a_list_of_another_form_is_no_sentence_without_entities(service, tmp_path, reply):
    """Its items were left out, and the student learnt with certainty that nothing is a name."""
    service.behave = lambda number, sentence: (200, {}, service.reply(json.dumps(reply)))
    with pytest.raises(ChatError, match="has no text or no type"):
        teacher_of(service, tmp_path).tag(SENTENCES[:1])


def test_types_that_nobody_asked_for_are_counted_and_named(service, tmp_path, caplog):
    reply = [{"text": "Anna Berg", "type": "PERSON"}, {"text": "Bonn", "type": "loc"}]
    service.behave = lambda number, sentence: (200, {}, service.reply(json.dumps(reply)))
    teacher = teacher_of(service, tmp_path)
    assert teacher.tag([SENTENCES[0], ["Anna", "Berg"]])[0] == ["O", "O", "O", "O", "B-LOC"]
    assert teacher.usage["other_types"] == 2
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "not asked for" in warnings[0]
    assert "PERSON" in warnings[0]


def test_a_text_that_occurs_twice_is_asked_about_once(service, tmp_path):
    """Requests at the same time gave the same sentence two answers, of which the record kept one."""
    replies = [json.dumps([{"text": "Anna", "type": "PER"}]), "[]"]

    def fickle(number, sentence):
        time.sleep(0.05)
        return 200, {}, service.reply(replies[number % 2])

    service.behave = fickle
    twice = [["Anna", "sings"]] * 4 + [["Anna sings"]]
    teacher = teacher_of(service, tmp_path, samples=2)
    first = teacher.distribution(twice).marginals
    assert teacher.usage["requests"] == 2
    torch.testing.assert_close(first, teacher_of(service, tmp_path, samples=2).distribution(twice).marginals)
    assert first[:4, 0, 1].tolist() == [0.5] * 4


@pytest.mark.parametrize(
    "behave",
    [
        lambda number, sentence: (401, {}, "x" * 190 + KEY),  # an error shows the first 200 letters
        lambda number, sentence: (200, {}, Service.reply(f"I was called with {KEY}.")),
        lambda number, sentence: (200, {}, json.dumps({"choices": [{"message": {"content": [KEY]}}]})),
    ],
)
@pytest.mark.parametrize("key", [KEY, f"{KEY}\n", f" {KEY}"])
def test_no_service_makes_us_show_the_key(service, tmp_path, monkeypatch, caplog, behave, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    caplog.set_level(logging.DEBUG)
    service.behave = behave
    with pytest.raises(ChatError) as raised:
        teacher_of(service, tmp_path, retries=0).tag(SENTENCES[:1])
    assert service.requests[0][1]["Authorization"] == f"Bearer {KEY}"
    kept = "".join(file.read_text() for file in tmp_path.iterdir())
    assert KEY[:9] not in str(raised.value) + caplog.text + kept


@pytest.mark.parametrize("key", [f"{KEY}\n{KEY}", f"{KEY}\xe9", f"{KEY}\x7f"])
def test_a_key_that_no_request_can_hold_is_refused_without_showing_it(service, tmp_path, monkeypatch, caplog, key):
    """The HTTP library's own error shows the header."""
    monkeypatch.setenv("OPENAI_API_KEY", key)
    caplog.set_level(logging.DEBUG)
    with pytest.raises(ValueError, match="OPENAI_API_KEY holds characters that no key has") as raised:
        teacher_of(service, tmp_path).tag(SENTENCES[:1])
    assert KEY not in str(raised.value) + caplog.text
    assert not service.requests


def test_a_service_that_lies_is_counted_and_one_that_babbles_is_asked_again(service, tmp_path):
    lies = [{"text": "Carl", "type": "PER"}, {"text": "Bonn", "type": "CITY"}, {"text": "Anna Berg", "type": "per"}]
    service.behave = lambda number, sentence: (200, {}, service.reply("Sure!\n```json\n" + json.dumps(lies) + "\n```"))
    teacher = teacher_of(service, tmp_path)
    assert teacher.tag(SENTENCES[:1]) == [["B-PER", "I-PER", "O", "O", "O"]]
    assert teacher.usage["unaligned"] == 1
    service.behave = lambda number, sentence: (200, {}, service.reply("I would rather not."))
    babbling = teacher_of(service, tmp_path / "b")
    with pytest.raises(ChatError, match=r"'Nobody sings': the reply holds no JSON list.*I would rather not"):
        babbling.tag(SENTENCES[1:])
    assert babbling.usage["unparsed"] == 3


def test_a_budget_is_kept_and_a_torn_record_is_read(service, tmp_path):
    teacher = teacher_of(service, tmp_path, max_requests=1, concurrency=1)
    with pytest.raises(ChatError, match="max_requests 1 is reached"):
        teacher.tag(SENTENCES)
    record = tmp_path / "answers.jsonl"
    record.write_bytes(record.read_bytes()[:-9])  # killed while writing
    again = teacher_of(service, tmp_path)
    again.tag(SENTENCES)
    assert again.usage["requests"] == 2
    assert teacher_of(service, tmp_path).tag(SENTENCES)[1] == ["O", "O"]
    assert sum(service.asked.values()) == 3


@pytest.mark.parametrize(
    ("words", "mentions", "tags", "missed"),
    [
        (["U.S", ".", "and", "U.S", "."], [("U.S.", "LOC")] * 2, ["B-LOC", "I-LOC", "O", "B-LOC", "I-LOC"], []),
        (["Anna", "Anna"], [("Anna", "PER")], ["B-PER", "O"], []),
        (["b", "a"], [("a", "PER"), ("b", "LOC")], ["B-LOC", "B-PER"], []),
        (["New", "York"], [("New York", "LOC"), ("York", "PER")], ["B-LOC", "I-LOC"], ["York"]),
        (["Annas", "x"], [("Anna", "PER"), ("anna", "PER")], ["O", "O"], ["Anna", "anna"]),
    ],
)
def test_mentions_are_placed_on_whole_words_once_and_in_order(words, mentions, tags, missed):
    assert align(words, [Mention(*mention) for mention in mentions]) == (tags, missed)


def test_replies_without_sense_are_refused():
    assert parse_reply("[]", ["PER"]) == []
    mentions = [Mention("a [b", "PER"), Mention("c", "DAY")]
    listed = json.dumps([{"text": "a [b", "type": "per"}, {"text": "c", "type": "DAY"}])
    assert parse_reply(f"<think>[a] or [b]?</think> {listed}", ["PER"]) == mentions
    assert parse_reply(json.dumps({"entities": json.loads(listed)}), ["PER"]) == mentions
    for reply in ("", "no", "[1, 2]", '{"text": "a"}', "[}", listed[:-9], f"[] or {listed}", "[" * 100_000):
        with pytest.raises(ValueError, match="no JSON list"):
            parse_reply(reply, ["PER"])


def test_it_is_a_kind_and_says_what_it_lacks(service, tmp_path):
    options = {"types": ["PER", "LOC"], "endpoint": service.endpoint, "record": str(tmp_path / "r")}
    assert load_teacher("chat:m", options=options).tag(SENTENCES)[1] == ["O", "O"]
    for changes, message in (
        ({"endpoint": ""}, "say where it is"),
        ({"endpoint": "ftp://x"}, "must be an http"),
        ({"endpoint": "https://me:key@x/v1"}, "keys go into OPENAI_API_KEY"),
        ({"types": []}, "say which types"),
        ({"prompt": "x"}, "no place for the types"),
        ({"samples": 0}, "samples is too small"),
        ({"parser": parse_reply}, "needs a parser_revision"),
    ):
        with pytest.raises(ValueError, match=message):
            load_teacher("chat:m", options={**options, **changes})
