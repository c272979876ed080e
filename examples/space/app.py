"""A page to try taggers on: entities, the k best analyses and marginals with exact probabilities, two side by side.

python examples/space/app.py CHECKPOINT [CHECKPOINT ...] [--trust_remote_code]

As a Space it is set up by its variables: TAGGERS names the checkpoints, separated by commas; TRUST_REMOTE_CODE=1 runs
the code that they carry, and hf_structkd need not be installed. Without it only the installed package's code is run.
"""

import argparse
import importlib
import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import gradio as gr
from rendering import CSS, alternatives, footer, heat_map, highlighted, hues, note, page
from transformers import pipeline

TASK = "crf-token-classification"
MAX_WORDS = 5000
NO_OTHER = "none"
ANY_LANGUAGE = "any language"
EXAMPLES = [
    ["Maria Schmidt left Lisbon in March to work for the World Health Organization in Geneva.", "en"],
    ["Im Sommer zog Karl Weber von Hamburg nach Wien und spielt nun für Rapid Wien.", "de"],
    ["La escritora Elena Ruiz nació en Valparaíso y estudió en la Universidad de Chile.", "es"],
    ["De burgemeester van Utrecht sprak gisteren met Jan de Vries van Feyenoord.", "nl"],
    ["وصلت ليلى حداد من بيروت إلى القاهرة يوم الاثنين.", "ar"],
]


class Taggers:
    """The checkpoints that the page offers, each loaded when it is first asked.

    Args:
        names: ids on the Hub, or folders.
        trust_remote_code: run the code that they carry; else the installed hf_structkd's.
    """

    def __init__(self, names: Sequence[str], trust_remote_code: bool = False) -> None:
        self.names = list(dict.fromkeys(names))
        self.trust_remote_code = trust_remote_code
        self.load: Callable[[str], Any] = lru_cache(maxsize=4)(self._load)

    def _load(self, name: str) -> Any:
        if self.trust_remote_code:
            return pipeline(model=name, trust_remote_code=True)
        try:
            importlib.import_module("hf_structkd")  # registers models and task
        except ImportError:
            raise ImportError(
                "hf_structkd is not installed, and the code that the checkpoint carries is run with "
                "TRUST_REMOTE_CODE=1 only."
            ) from None
        # Said, not left out: transformers would ask on standard input whether to run unknown code.
        return pipeline(TASK, model=name, trust_remote_code=False)

    def answer(self, name: str, text: str, language: str, top_k: int, threshold: float) -> str:
        """One tagger's answer as HTML; what cannot be answered is said there too."""
        if not text or not text.strip():
            return page(note("There is no text yet: type or paste a sentence above."))
        if name not in self.names:
            return page(note(f"{name} is not among the taggers of this page."))
        try:
            tagger = self.load(name)
        except (OSError, ValueError, ImportError, RuntimeError) as error:
            return page(note(f"{name} could not be loaded. {error}"))
        words = len(tagger.preprocess(text).words)
        if not words:
            return page(note("There is no word in this text, only spaces or control characters."))
        if words > MAX_WORDS:
            return page(note(f"This text has {words:,} words; this page tags up to {MAX_WORDS:,} at once."))
        answer = tagger(text, top_k=int(top_k), marginals=True, entropy=True)
        best = answer.get("entities", answer.get("tags", []))
        kept = [span for span in best if span["score"] >= threshold]
        colours = hues(list(answer["marginals"][0]["scores"]))
        shown = {**answer, "entities": kept}
        hidden = len(best) - len(kept)
        return page(
            self.language_note(tagger, language),
            highlighted(text, shown, colours),
            note(f"{hidden} below the threshold of {threshold:g} not marked.") if hidden else "",
            alternatives(text, answer, colours),
            heat_map(answer),
            footer(answer),
        )

    @staticmethod
    def language_note(tagger: Any, language: str | None) -> str:
        """A warning where the tagger says which languages it knows, and this is none of them."""
        known = getattr(tagger.model.config, "languages", None)
        language = (language or "").strip()
        if not language or language == ANY_LANGUAGE or not known or language in known:
            return ""
        return note(
            f"This tagger was trained on {', '.join(known)}, not on {language}: its probabilities may mislead."
        )


def build(taggers: Taggers) -> gr.Blocks:
    """The page."""
    first = taggers.names[0]
    second = taggers.names[1] if len(taggers.names) > 1 else NO_OTHER
    with gr.Blocks(title="Multilingual tagger", analytics_enabled=False, fill_width=True) as demo:
        gr.Markdown(
            "# Multilingual tagger\n"
            "One encoder with a linear-chain CRF, distilled from taggers of single languages. Every probability is "
            "exact: summed over **all** ways of tagging the text."
        )
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                text = gr.Textbox(
                    EXAMPLES[0][0], label="Text", lines=4, max_lines=12, elem_id="text", placeholder="Any text"
                )
            with gr.Column(scale=2, min_width=280):
                with gr.Row():
                    left = gr.Dropdown(taggers.names, value=first, label="Tagger", elem_id="left")
                    right = gr.Dropdown(
                        [NO_OTHER, *taggers.names], value=second, label="Compared with", elem_id="right"
                    )
                with gr.Row():
                    language = gr.Dropdown(
                        [ANY_LANGUAGE, *(code for _, code in EXAMPLES)],
                        value=ANY_LANGUAGE,
                        label="Language",
                        allow_custom_value=True,
                        elem_id="language",
                    )
                    top_k = gr.Slider(1, 10, value=4, step=1, label="Analyses")
                    threshold = gr.Slider(0, 1, value=0, step=0.05, label="Threshold")
        button = gr.Button("Tag", variant="primary", elem_id="tag")
        examples = gr.Examples([[sentence] for sentence, _ in EXAMPLES], [text], label="Try one of these")
        with gr.Row():
            with gr.Column(min_width=320):
                left_name = gr.Markdown(elem_classes="name")
                left_answer = gr.HTML(elem_id="left-answer")
            with gr.Column(min_width=320, visible=second != NO_OTHER) as right_column:
                right_name = gr.Markdown(elem_classes="name")
                right_answer = gr.HTML(elem_id="right-answer")

        def tag(text: str, left: str, right: str, *options: Any) -> list[Any]:
            compared = right != NO_OTHER
            return [
                f"### {left}",
                taggers.answer(left, text, *options),
                gr.update(visible=compared),
                f"### {right}",
                taggers.answer(right, text, *options) if compared else "",
            ]

        inputs = [text, left, right, language, top_k, threshold]
        outputs = [left_name, left_answer, right_column, right_name, right_answer]
        gr.on([button.click, text.submit, demo.load], tag, inputs, outputs, api_name="tag")
        examples.load_input_event.then(tag, inputs, outputs, api_visibility="private")
    return demo


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="*", help="ids on the Hub, or folders; default: the variable TAGGERS")
    parser.add_argument("--trust_remote_code", action="store_true", help="run the code that the checkpoints carry")
    parser.add_argument("--port", type=int)
    given = parser.parse_args()
    names = given.checkpoints or [name.strip() for name in os.environ.get("TAGGERS", "").split(",") if name.strip()]
    if not names:
        parser.error("no tagger: name checkpoints, or set the variable TAGGERS")
    trust = given.trust_remote_code or os.environ.get("TRUST_REMOTE_CODE", "0") not in ("", "0")
    theme = gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    build(Taggers(names, trust)).launch(server_port=given.port, css=CSS, theme=theme)


if __name__ == "__main__":
    main()
