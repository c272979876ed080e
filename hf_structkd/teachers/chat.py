"""Language models behind a chat-completions endpoint as teachers: asked once, every answer kept.

A model is asked for the entities of each sentence, once or several times; the tag sequences of its answers, with their
frequencies, are the teacher's distribution. Any HTTP service that speaks the common chat-completions JSON will do:
hosted models, vLLM, llama.cpp, Ollama.
"""

import json
import logging
import math
import os
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from ..files import json_sha256
from .base import import_package
from .function import CallableTeacher
from .label_map import LabelMap

logger = logging.getLogger(__name__)

PROMPT = (
    "Find the named entities in the sentence that the user gives. The types are:\n{types}\n"
    'Answer with a JSON list and nothing else: [{"text": "...", "type": "..."}, ...], in the order of the sentence, '
    "each text copied exactly as it stands there, each mention once. Entities do not overlap. Without any, answer []."
)
_AGAIN = (408, 409, 425, 429, 500, 502, 503, 504)  # statuses after which the same request may succeed
_LONGEST_WAIT = 60.0  # seconds between two tries
_READING = "2"  # of `parse_reply`: raise it with a change that reads a kept reply otherwise


class ChatError(OSError):
    """A service cannot be reached, refuses, or does not answer what it was asked."""


class Mention(NamedTuple):
    """An entity in an answer.

    Args:
        text: as the model wrote it.
        type: one of the types asked for.
    """

    text: str
    type: str


Parser = Callable[[str, Sequence[str]], Sequence[Mention]]


class ChatTeacher(CallableTeacher):
    """A language model as a teacher (extra `chat`).

    Args:
        model: its name at the endpoint.
        types: the entity types, or a mapping from types to what they mean (for the prompt).
        endpoint: the service's base address, to which `/chat/completions` is added.
        samples: answers per sentence; their frequencies are the probabilities.
        sampling_temperature: of the service; by default 0 for one sample, else 0.7.
        prompt: the instruction, with `{types}` where the types are listed.
        parser: (reply, types) -> mentions, in place of [`parse_reply`]; ValueError says that a reply makes no sense.
        parser_revision: the version of such a parser; change it whenever it would read a reply otherwise.
        api_key_env: the environment variable with the key. The key goes into requests and nowhere else.
        record: the file that keeps every answer, one line of JSON each; by default in the cache of Hugging Face.
        concurrency: requests at once.
        retries: further tries of a request that failed in passing, with growing waits; `Retry-After` is respected.
        timeout: seconds for one request, until its answer is there as a whole.
        max_requests: stop with an error rather than ask more often; `None` for no limit.
        name, label_map, scheme, temperature: as for [`CallableTeacher`].

    Attributes:
        usage: `requests`, `prompt_tokens`, `completion_tokens`, `unaligned` mentions (not in their sentence), mentions
            of `other_types` than those asked for, and `unparsed` replies so far.

    Raises:
        ImportError: if httpx is not installed.
        ValueError: for missing types, a prompt without `{types}`, an endpoint that holds a key, or a key that no
            header can hold.
        ChatError: when it is asked and the service fails for good; answers until then are kept.
    """

    def __init__(
        self,
        model: str,
        types: Sequence[str] | Mapping[str, str],
        *,
        endpoint: str,
        samples: int = 1,
        sampling_temperature: float | None = None,
        prompt: str = PROMPT,
        parser: Parser | None = None,
        parser_revision: str = "",
        api_key_env: str = "OPENAI_API_KEY",
        record: str | os.PathLike[str] | None = None,
        concurrency: int = 4,
        retries: int = 6,
        timeout: float = 60.0,
        max_requests: int | None = None,
        name: str | None = None,
        label_map: LabelMap | None = None,
        scheme: str | None = None,
        temperature: float = 1.0,
    ) -> None:
        self._httpx = import_package("httpx", extra="chat")
        name = name or f"chat:{model}"
        if not types or isinstance(types, str):
            raise ValueError(f"teacher {name}: say which types it is asked for: types: [PER, LOC], or {{PER: people}}")
        if "{types}" not in prompt:
            raise ValueError(f"teacher {name}: the prompt has no place for the types: write {{types}} into it")
        if re.search(r"\?|//[^/]*@", endpoint):
            raise ValueError(f"teacher {name}: the endpoint holds more than an address; keys go into {api_key_env}")
        if not re.match(r"https?://", endpoint):
            raise ValueError(f"teacher {name}: the endpoint must be an http(s) address, not {endpoint!r}")
        for field, value in (("samples", samples), ("concurrency", concurrency), ("retries", retries + 1)):
            if value < 1:
                raise ValueError(f"teacher {name}: {field} is too small")
        if parser is not None and not parser_revision:
            raise ValueError(f"teacher {name}: a parser needs a parser_revision, under which its readings are kept")
        self.model, self.endpoint, self.samples = model, endpoint.rstrip("/"), samples
        meanings = types if isinstance(types, Mapping) else dict.fromkeys(types, "")
        self.types = list(meanings)
        listed = "\n".join(f"- {kind}: {meaning}" if meaning else f"- {kind}" for kind, meaning in meanings.items())
        self.instruction = prompt.replace("{types}", listed)
        self.parser: Parser = parser or parse_reply
        self.sampling_temperature = sampling_temperature
        if sampling_temperature is None:
            self.sampling_temperature = 0.0 if samples == 1 else 0.7
        self.api_key_env, self.concurrency, self.retries, self.timeout = api_key_env, concurrency, retries, timeout
        self.max_requests = max_requests
        self.usage: Counter[str] = Counter(
            dict.fromkeys(
                ("requests", "prompt_tokens", "completion_tokens", "unaligned", "other_types", "unparsed"), 0
            )
        )
        self._lock = threading.Lock()
        request = {
            "model": model,
            "endpoint": self.endpoint,
            "instruction": self.instruction,
            "temperature": self.sampling_temperature,
        }
        self._asked = json_sha256(request)
        self._record = _Record(Path(record) if record is not None else _cache() / f"{self._asked[:32]}.jsonl")
        labels = ["O", *(f"{prefix}-{kind}" for kind in self.types for prefix in "BI")]
        super().__init__(
            self._tag_sequences,
            labels,
            name=name,
            revision=json_sha256([self._asked, samples, parser_revision or _READING])[:40],
            answers="paths",
            label_map=label_map,
            scheme=scheme,
            temperature=temperature,
        )

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        *,
        types: Sequence[str] | Mapping[str, str] = (),
        endpoint: str = "",
        label_map: LabelMap | None = None,
        scheme: str | None = None,
        temperature: float = 1.0,
        device: Any = None,
        **options: Any,
    ) -> "ChatTeacher":
        """The teacher of a recipe, `chat:MODEL`.

        Args:
            name: the model's name at the endpoint.
            types, endpoint, label_map, scheme, temperature: see the class.
            device: of no use: the model runs elsewhere.
            options: the class's other arguments.
        """
        if not endpoint:
            raise ValueError(f"teacher chat:{name}: say where it is (option endpoint: http://localhost:8000/v1)")
        reading: dict[str, Any] = {"label_map": label_map, "scheme": scheme, "temperature": temperature}
        return cls(name, types, endpoint=endpoint, **reading, **options)

    def _tag_sequences(self, sentences: Sequence[Sequence[str]]) -> list[list[tuple[list[str], float]]]:
        headers = self._headers()
        # Replies belong to texts: a sentence that a corpus holds twice is asked about once.
        jobs = list(dict.fromkeys((" ".join(words), sample) for words in sentences for sample in range(self.samples)))
        with (
            self._httpx.Client(timeout=self.timeout, headers=headers) as client,
            ThreadPoolExecutor(max_workers=self.concurrency) as pool,
        ):
            futures = [pool.submit(self._mentions, client, text, sample) for text, sample in jobs]
            try:
                mentions = dict(zip(jobs, [future.result() for future in futures]))
            except BaseException:
                for future in futures:
                    future.cancel()
                raise
        answers: dict[tuple[str, ...], Counter[tuple[str, ...]]] = {}
        for words in map(tuple, sentences):
            if words not in answers:
                text = " ".join(words)
                answers[words] = Counter(self._tags(words, mentions[text, sample]) for sample in range(self.samples))
        logger.info(
            "%s until now: %s", self.name, ", ".join(f"{count:,} {name}" for name, count in self.usage.items())
        )
        return [
            [(list(path), count / self.samples) for path, count in answers[tuple(words)].items()]
            for words in sentences
        ]

    def _headers(self) -> dict[str, str]:
        """The key as a header, if there is one. Errors of HTTP libraries would show a key that no header can hold."""
        key = self._key
        if not (key.isascii() and key.isprintable()):
            raise ValueError(f"{self.name}: {self.api_key_env} holds characters that no key has: write it anew")
        return {"Authorization": f"Bearer {key}"} if key else {}

    @property
    def _key(self) -> str:
        return os.environ.get(self.api_key_env, "").strip()  # files that hold keys end with a newline

    def _hidden(self, text: str) -> str:
        """A text of the service, without the key that it may repeat."""
        return text.replace(self._key, "***") if self._key else text

    def _tags(self, words: Sequence[str], mentions: Sequence[Mention]) -> tuple[str, ...]:
        tags, missed = align(words, mentions)
        if missed:
            self.usage["unaligned"] += len(missed)
            sentence = " ".join(words)
            logger.info("%s: not in the sentence %.80r: %s", self.name, sentence, ", ".join(missed)[:200])
        return tuple(tags)

    def _mentions(self, client: Any, sentence: str, sample: int) -> list[Mention]:
        """The mentions of one sample: of the first reply that can be read."""
        reply, problem = "", ""
        for attempt in range(3):  # a reply without sense is asked for again
            key = json_sha256([self._asked, sentence, sample, attempt])
            kept = self._record.get(key)
            reply = self._ask(client, sentence) if kept is None else kept
            if kept is None:
                self._record.put(key, reply)
            try:
                mentions = self.parser(reply, self.types)
            except ValueError as error:
                problem = str(error)
                with self._lock:
                    self.usage["unparsed"] += 1
                continue
            if others := [mention.type for mention in mentions if mention.type not in self.types]:
                with self._lock:
                    level = logging.INFO if self.usage["other_types"] else logging.WARNING
                    self.usage["other_types"] += len(others)
                logger.log(
                    level,
                    "%s answers with types that it was not asked for, which are left out and counted: %s",
                    self.name,
                    ", ".join(dict.fromkeys(others))[:200],
                )
            return [mention for mention in mentions if mention.type in self.types]
        raise ChatError(f"{self.name}, sentence {sentence[:80]!r}: {problem}; the last reply was {reply[:200]!r}")

    def _ask(self, client: Any, sentence: str) -> str:
        body = {
            "model": self.model,
            "temperature": self.sampling_temperature,
            "messages": [{"role": "system", "content": self.instruction}, {"role": "user", "content": sentence}],
        }
        problem = ""
        for attempt in range(self.retries + 1):
            with self._lock:
                if self.max_requests is not None and self.usage["requests"] >= self.max_requests:
                    raise ChatError(f"{self.name}: max_requests {self.max_requests} is reached; answers are kept")
                self.usage["requests"] += 1
            wait = min(_LONGEST_WAIT, 0.5 * 2**attempt) * random.uniform(0.5, 1.0)
            try:
                status, retry_after, content = self._post(client, body)
            except self._httpx.HTTPError as error:
                problem = f"{type(error).__name__}: {error}"
            else:
                if status == 200:
                    text, problem = self._text_of(content)
                    if not problem:
                        return self._hidden(text)
                else:
                    # The key is hidden before the text is cut, which could leave a part of it.
                    problem = f"status {status}: {self._hidden(content)[:200]}"
                    if status not in _AGAIN:
                        break
                    wait = _seconds(retry_after, wait)
            if attempt < self.retries:
                time.sleep(wait)
        raise ChatError(
            f"{self.name} at {self.endpoint} gives no answer ({self._hidden(problem)}); answers until now are kept"
        )

    def _post(self, client: Any, body: dict[str, Any]) -> tuple[int, str | None, str]:
        """One request: the status, `Retry-After`, and the text of the response.

        httpx's timeout is one of each read, and a service that sends a byte now and then is never late for it.
        """
        until, parts = time.monotonic() + self.timeout, []
        with client.stream("POST", f"{self.endpoint}/chat/completions", json=body) as response:
            for part in response.iter_bytes():
                parts.append(part)
                if time.monotonic() > until:
                    raise self._httpx.ReadTimeout(f"no whole answer within {self.timeout:g} s")
        text = b"".join(parts).decode("utf-8", "replace")
        return response.status_code, response.headers.get("retry-after"), text

    def _text_of(self, response: str) -> tuple[str, str]:
        """The reply in a response, and what is wrong with the response, if anything."""
        try:
            content = json.loads(response)
            text = content["choices"][0]["message"]["content"]
            if not isinstance(text, str):
                raise TypeError(f"content {text!r}")
        except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
            return "", f"no chat completion ({type(error).__name__}: {error})"
        used = content.get("usage")
        for name in ("prompt_tokens", "completion_tokens"):
            number = used.get(name) if isinstance(used, dict) else None
            if isinstance(number, int) and number > 0:  # some services count nothing, or say so in words
                with self._lock:
                    self.usage[name] += number
        return text, ""


def parse_reply(reply: str, types: Sequence[str]) -> list[Mention]:
    """The mentions in a reply: its JSON list, whatever stands around it, behind the thoughts of a model that thinks.

    Types are those asked for, whatever their case; others stay as they are written.

    Raises:
        ValueError: if there is no such list, or one of its items lacks the text or the type.
    """
    reply = reply.rpartition("</think>")[2]
    first, last = reply.find("["), reply.rfind("]")
    try:
        listed = json.loads(reply[first : last + 1]) if 0 <= first < last else None
    except (ValueError, RecursionError):
        listed = None
    if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
        raise ValueError("the reply holds no JSON list of entities")
    known = {kind.casefold(): kind for kind in types}
    mentions = []
    for item in listed:
        text, kind = item.get("text"), item.get("type")
        if not isinstance(text, str) or not isinstance(kind, str):  # else it would pass for a sentence without any
            raise ValueError(f"an item of the reply's list has no text or no type: {str(item)[:80]}")
        if text.strip():
            mentions.append(Mention(text, known.get(kind.casefold(), kind)))
    return mentions


def align(words: Sequence[str], mentions: Sequence[Mention]) -> tuple[list[str], list[str]]:
    """BIO tags of the mentions that stand in a sentence, and the texts of those that do not.

    A mention matches whole words, letter by letter without the blanks, at the first place after the mention before
    it, else at the first place anywhere, where no word is taken.

    Args:
        words: of the sentence.
        mentions: in the order of the answer.
    """
    tags, missed, position = ["O"] * len(words), [], 0
    for text, kind in mentions:
        wanted = "".join(text.split())
        span = _find(words, wanted, tags, position) or _find(words, wanted, tags, 0)
        if span is None:
            missed.append(text)
            continue
        start, position = span
        tags[start:position] = [f"B-{kind}"] + [f"I-{kind}"] * (position - start - 1)
    return tags, missed


def _find(words: Sequence[str], wanted: str, tags: Sequence[str], first: int) -> tuple[int, int] | None:
    for start in range(first, len(words)):
        length = 0
        for end in range(start, len(words)):
            if tags[end] != "O" or not wanted.startswith(words[end], length):
                break
            length += len(words[end])
            if length == len(wanted):
                return start, end + 1
    return None


def _seconds(retry_after: str | None, otherwise: float) -> float:
    try:
        seconds = float(retry_after or "")
    except ValueError:  # none, or a date
        return otherwise
    return min(max(seconds, 0.0), _LONGEST_WAIT) if not math.isnan(seconds) else otherwise


def _cache() -> Path:
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME) / "hf_structkd" / "chat"


class _Record:
    """Replies by key, in a file to which several processes may append; a torn last line is left out."""

    def __init__(self, file: Path) -> None:
        self.file, self._lock = file, threading.Lock()
        self._replies: dict[str, str] = {}
        if file.exists():
            for line in file.read_text(encoding="utf-8").split("\n"):
                try:
                    kept = json.loads(line)
                    self._replies[kept["key"]] = kept["reply"]
                except (ValueError, KeyError, TypeError):
                    if line:
                        logger.warning("%s has a line that is no answer; it is asked for again", file)

    def get(self, key: str) -> str | None:
        with self._lock:
            return self._replies.get(key)

    def put(self, key: str, reply: str) -> None:
        line = json.dumps({"key": key, "reply": reply}, ensure_ascii=False) + "\n"
        with self._lock:
            self._replies[key] = reply
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self.file}.lock"), self.file.open("ab") as stream:
                if stream.tell() and not _ends_with_newline(self.file):
                    stream.write(b"\n")  # a killed process left half a line
                stream.write(line.encode("utf-8", "surrogatepass"))
                stream.flush()
                os.fsync(stream.fileno())


def _ends_with_newline(file: Path) -> bool:
    with file.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) == b"\n"
