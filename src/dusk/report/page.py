"""The page: everything that the other files computed, put into the template.

Every text of the run goes through the template's escaping, and a policy in the page itself forbids it to load
or to run anything but the style and the script that stand in it.
"""

import base64
import hashlib
import re
from dataclasses import dataclass
from importlib import resources

import jinja2
from markupsafe import Markup, escape

from dusk.report.ablations import ablations_of
from dusk.report.arms import Arms, find_arms
from dusk.report.breakdown import breakdowns_of
from dusk.report.costs import costs_of
from dusk.report.evaluations import read_evaluations
from dusk.report.forest import forest_of
from dusk.report.judged import judged_tables
from dusk.report.layer_strip import layer_strip
from dusk.report.lineage import lineage
from dusk.report.plots import Plots, plots_of
from dusk.report.provenance import provenance_of
from dusk.report.run_folder import Run
from dusk.report.scores import score_table
from dusk.report.sweeps import sweeps_of
from dusk.report.verdict import WITH_THE_SAME, Gain, Outcome, Recovery, Verdict, verdict_of
from dusk.report.wording import bits, count, flops, listed

_TEMPLATES = "templates"


@dataclass(frozen=True)
class Fact:
    """One of the facts under the sentence: what it is, its figure, and a line about it."""

    name: str
    figure: str
    words: str


def render(run: Run) -> str:
    """The whole page as HTML."""
    arms = find_arms(run)
    evaluations = read_evaluations(run)
    verdict = verdict_of(arms, evaluations)
    plots, judged = plots_of(run, arms), judged_tables(run)
    scored = bool(judged) or any(evaluation.models for evaluation in evaluations)
    tables = [score_table(run, evaluation, arms.base) for evaluation in evaluations]
    strip = layer_strip(arms.scaled, arms.base.label if arms.base else "base") if arms.scaled else None
    return rendered(
        "report.html.jinja",
        run=run,
        facts=facts_of(arms, verdict),
        missing=missing_of(run, arms, plots, scored=scored),
        verdict=verdict,
        picture=lineage(run, arms),
        strip=strip,
        forest=forest_of(verdict.gains),
        plots=plots,
        costs=costs_of(run),
        provenance=provenance_of(run),
        tables=tables,
        judged=judged,
        ablations=ablations_of(run, evaluations),
        sweeps=sweeps_of(run, evaluations),
        breakdowns=[part for evaluation in evaluations for part in breakdowns_of(run, evaluation, arms.base)],
    )


def rendered(template: str, **values: object) -> str:
    """A template with its values, the style and the script."""
    style, script = _text("report.css"), _text("report.js")
    return (
        _environment()
        .get_template(template)
        .render(**values, style=Markup(style), script=Markup(script), script_hash=_hash(script))
    )


def facts_of(arms: Arms, verdict: Verdict) -> list[Fact]:
    """The figures behind the sentence."""
    recovery = verdict.recovery
    facts = []
    if recovery.tokens is not None and recovery.outcome is Outcome.RECOVERED:
        words = f"of {count(recovery.trained)}; {_levels(recovery)}"
        facts.append(Fact("Recovered after", f"{count(recovery.tokens)} tokens", words))
    elif recovery.outcome is Outcome.NOT_RECOVERED:
        facts.append(Fact("Not recovered within", f"{count(recovery.trained)} tokens", _levels(recovery)))
    elif recovery.outcome is Outcome.NEVER_WORSE:
        facts.append(Fact("Recovery", "not needed", _levels(recovery)))
    shown = {gain.control.role: gain for gain in reversed(verdict.gains)}
    facts += [_compared(shown[role], same, arms) for role, same in WITH_THE_SAME.items() if role in shown]
    return facts


def _levels(recovery: Recovery) -> str:
    course = f"{bits(recovery.start)} at first, {bits(recovery.end)} at the end"
    return f"bits per byte {course}; base {bits(recovery.level)}"


def _compared(gain: Gain, same: str, arms: Arms) -> Fact:
    figure = "no difference" if gain.word == "no different" else f"{bits(abs(gain.value))} {gain.side}"
    spent = [f"{count(gain.control.tokens)} tokens" if gain.control.tokens else ""]
    if gain.control.flops:
        spent.append(f"{flops(gain.control.flops)} FLOPs")
    if gain.control.flops and arms.recovery and arms.recovery.flops:
        spent.append(f"{gain.control.flops / arms.recovery.flops:.2f} of the scaled model's")
    words = ", ".join(part for part in spent if part)
    return Fact(f"Against the base given {same}", figure, f"{gain.control.final.label}: {words}")


def missing_of(run: Run, arms: Arms, plots: Plots, *, scored: bool) -> list[str]:
    """What the page would show if the run had it."""
    absent = []
    unfinished = [f"{stage.label} ({stage.status})" for stage in run.stages if not stage.done]
    if unfinished:
        absent.append(f"The run is not finished; there is no output of {listed(unfinished)}.")
    absent += [f"{stage.label} failed: {stage.error}" for stage in run.stages if stage.error]
    if arms.scaled and not arms.controls:
        absent.append("The run has no controls: no other pretraining starts from the base that was grown.")
    if not scored:
        absent.append("No model was evaluated, so there is no table of scores.")
    if arms.recovery and not plots.recovery:
        absent.append("No held-out loss was measured along the way; give the stages `eval_data`.")
    return absent


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dusk.report", _TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["breakable"] = _breakable
    return environment


def _breakable(label: str) -> Markup:
    """A name that a narrow column may break after an underscore, as it may at a space."""
    return Markup(re.sub("(_)", r"\1<wbr>", str(escape(label))))


def _text(name: str) -> str:
    return resources.files("dusk.report").joinpath(_TEMPLATES, name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
