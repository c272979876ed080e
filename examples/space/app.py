"""A page to try taggers on: entities, the k best analyses and marginals with exact probabilities, two side by side.

python examples/space/app.py CHECKPOINT [CHECKPOINT ...] [--trust_remote_code]

As a Space it is set up by its variables: TAGGERS names the checkpoints, separated by commas; TRUST_REMOTE_CODE=1 runs
the code that they carry, and hf_structkd need not be installed. Without it only the installed package's code is run.
"""

import argparse
import os
from typing import Any

import gradio as gr
from comparison import compared
from rendering import CSS, alternatives, differing, footer, heat_map, highlighted, hues, note, page
from sentences import SENTENCES, examples
from taggers import NoAnswerError, Taggers

NO_OTHER = "none"
ANY_LANGUAGE = "any language"
MAX_LINK = 8000  # characters of an address, as it is sent; browsers and servers refuse much longer ones
GOLD = "Anna\tB-PER\nBerg\tI-PER\nlives\tO\nin\tO\nLyon\tB-LOC\n.\tO\n\nIt\tO\nrains\tO\n.\tO"
# The address of the page with the text and the taggers; it also goes to the clipboard and into the address bar.
LINK = """(text) => {
  const address = new URL(window.location.href);
  address.search = "";
  const members = {text, left: document.querySelector("#left input").value,
    right: document.querySelector("#right input").value};
  for (const [name, value] of Object.entries(members)) address.searchParams.set(name, value);
  const fits = address.href.length <= LIMIT;
  if (fits) {
    window.history.replaceState(null, "", address);
    if (navigator.clipboard) navigator.clipboard.writeText(address.href).catch(() => {});
  }
  return fits ? address.href : "";
}""".replace("LIMIT", str(MAX_LINK))


def above(answer: dict[str, Any], threshold: float) -> tuple[dict[str, Any], int]:
    """An answer with the entities, or words, whose probability reaches the threshold; and how many do not."""
    name = "tags" if "tags" in answer else "entities"
    kept = [span for span in answer[name] if span["score"] >= threshold]
    return {**answer, name: kept}, len(answer[name]) - len(kept)


def answer_as_html(text: str, answer: dict[str, Any], threshold: float, warning: str, colours: dict[str, int]) -> str:
    """One tagger's answer: the text with its entities, other analyses, probabilities of tags."""
    marked, hidden = above(answer, threshold)
    return page(
        warning,
        highlighted(text, marked, colours),
        note(f"{hidden} below the threshold of {threshold:g} not marked.") if hidden else "",
        alternatives(text, answer, colours),
        heat_map(answer),
        footer(answer),
    )


def language_note(taggers: Taggers, name: str, language: str | None) -> str:
    """A warning where the tagger says which languages it knows, and this is none of them."""
    known, language = taggers.config(name)["languages"], (language or "").strip()
    if not language or language == ANY_LANGUAGE or not known or language in known:
        return ""
    return note(f"This tagger was trained on {', '.join(known)}, not on {language}: its probabilities may mislead.")


def tag(
    taggers: Taggers, names: list[str], text: str, language: str | None, top_k: int, threshold: float
) -> tuple[list[str], str]:
    """The answers of one or two taggers as HTML, and where two differ; what cannot be answered is said there too."""
    answered: list[dict[str, Any] | NoAnswerError] = []
    for name in names:
        try:
            answered.append(taggers.answer(name, text, top_k=int(top_k), marginals=True, entropy=True))
        except NoAnswerError as error:
            answered.append(error)
    answers = [answer for answer in answered if not isinstance(answer, NoAnswerError)]
    # One colour for a type everywhere on the page, also where the taggers know different types.
    colours = hues([label for answer in answers for label in answer["marginals"][0]["scores"]])
    shown = [
        page(note(str(answer)))
        if isinstance(answer, NoAnswerError)
        else answer_as_html(text, answer, threshold, language_note(taggers, name, language), colours)
        for name, answer in zip(names, answered)
    ]
    if len(answers) < 2:
        return shown, ""
    marked = [above(answer, threshold) for answer in answers]
    below = sum(hidden for _, hidden in marked)
    return shown, page(
        differing(names, [answer for answer, _ in marked], colours),
        note(f"{below} below the threshold of {threshold:g} count as not found.") if below else "",
    )


def build(taggers: Taggers) -> gr.Blocks:
    """The page."""
    first = taggers.names[0]
    second = taggers.names[1] if len(taggers.names) > 1 else NO_OTHER
    offered = examples(taggers.languages())
    with gr.Blocks(title="Multilingual tagger", analytics_enabled=False, fill_width=True) as demo:
        gr.Markdown(
            "# Multilingual tagger\n"
            "An encoder with a linear-chain CRF, distilled from taggers of single languages. Every probability is "
            "exact: summed over **all** ways of tagging the text."
        )
        with gr.Row():
            left = gr.Dropdown(taggers.names, value=first, label="Tagger", elem_id="left", min_width=260)
            right = gr.Dropdown(
                [NO_OTHER, *taggers.names], value=second, label="Compared with", elem_id="right", min_width=260
            )
        with gr.Tab("Tag a text"):
            text = gr.Textbox(offered[0], label="Text", lines=3, max_lines=14, elem_id="text", placeholder="Any text")
            with gr.Accordion("Options", open=False, elem_id="options"), gr.Row():
                language = gr.Dropdown(
                    [ANY_LANGUAGE, *(taggers.languages() or SENTENCES)],
                    value=ANY_LANGUAGE,
                    label="Language",
                    info="The page warns if a tagger was not trained on it.",
                    allow_custom_value=True,
                    elem_id="language",
                    min_width=280,
                )
                top_k = gr.Slider(1, 10, value=4, step=1, label="Analyses", min_width=280)
                threshold = gr.Slider(0, 1, value=0, step=0.05, label="Threshold", min_width=280)
            with gr.Row():
                button = gr.Button("Tag", variant="primary", elem_id="tag", scale=4, min_width=160)
                share = gr.Button("Link to this text", elem_id="share", scale=1, min_width=160)
            link = gr.Textbox(label="Link", visible=False, max_lines=2, buttons=["copy"], elem_id="link")
            tried = gr.Examples([[sentence] for sentence in offered], [text], label="Try one of these")
            differences = gr.HTML(elem_id="differences")
            with gr.Row():
                with gr.Column(min_width=320):
                    left_name = gr.Markdown(elem_classes="name")
                    left_answer = gr.HTML(elem_id="left-answer")
                with gr.Column(min_width=320, visible=second != NO_OTHER) as right_column:
                    right_name = gr.Markdown(elem_classes="name")
                    right_answer = gr.HTML(elem_id="right-answer")
        with gr.Tab("Compare on gold tags", visible=len(taggers.names) > 1):
            gr.Markdown(
                "What changes for those who use the first tagger, if the second takes its place? Paste sentences with "
                "gold tags: a word and its tag per line, an empty line between sentences."
            )
            gold = gr.Textbox(
                label="Sentences with gold tags", lines=8, max_lines=16, placeholder=GOLD, elem_id="gold"
            )
            compare = gr.Button("Compare", variant="primary", elem_id="compare")
            flips = gr.HTML(elem_id="flips")

        def answers(text: str, left: str, right: str, *options: Any) -> list[Any]:
            names = [left] if right == NO_OTHER else [left, right]
            shown, differ = tag(taggers, names, text, *options)
            titles = [f"### {name}\n{taggers.facts(name)}" if name in taggers.names else "" for name in names]
            return [titles[0], shown[0], gr.update(visible=len(names) > 1), titles[-1], shown[-1], differ]

        def opened(request: gr.Request) -> list[Any]:
            """The text and the taggers of a link."""
            members = dict(request.query_params)
            values = [members.get("text", offered[0])]
            for member, default, known in (
                ("left", first, taggers.names),
                ("right", second, [NO_OTHER, *taggers.names]),
            ):
                name = members.get(member, default)
                if name not in known:
                    gr.Warning(f"This page has no tagger {name}; it shows {default}.")
                values.append(name if name in known else default)
            return values

        def linked(address: str) -> Any:
            if not address:
                gr.Warning(
                    f"The text is too long for a link: its address would have more than {MAX_LINK:,} characters. "
                    "Letters other than a to z count several times."
                )
            return gr.update(value=address, visible=bool(address))

        inputs = [text, left, right, language, top_k, threshold]
        outputs = [left_name, left_answer, right_column, right_name, right_answer, differences]
        gr.on([button.click, text.submit], answers, inputs, outputs, api_name="tag")
        tried.load_input_event.then(answers, inputs, outputs, api_visibility="private")
        demo.load(opened, None, [text, left, right], api_visibility="private").then(
            answers, inputs, outputs, api_visibility="private"
        )
        share.click(linked, [text], [link], js=LINK, api_visibility="private")
        compare.click(lambda *of: compared(taggers, *of), [left, right, gold], [flips], api_name="compare")
    return demo


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="*", help="ids on the Hub, or folders; default: the variable TAGGERS")
    parser.add_argument("--trust_remote_code", action="store_true", help="run the code that the checkpoints carry")
    parser.add_argument("--port", type=int)
    arguments = parser.parse_args()
    names = arguments.checkpoints or [
        name.strip() for name in os.environ.get("TAGGERS", "").split(",") if name.strip()
    ]
    if not names:
        parser.error("no tagger: name checkpoints, or set the variable TAGGERS")
    trusted = os.environ.get("TRUST_REMOTE_CODE", "")
    if trusted not in ("", "0", "1"):  # "false" must not run a stranger's code
        parser.error(f"the variable TRUST_REMOTE_CODE is 1 or 0, not {trusted!r}")
    theme = gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    build(Taggers(names, arguments.trust_remote_code or trusted == "1")).launch(
        server_port=arguments.port, css=CSS, theme=theme
    )


if __name__ == "__main__":
    main()
