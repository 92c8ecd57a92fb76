"""The page under typing: what a key costs the browser, by the length of the text, and whether a task holds it up.

A key is pressed while all that was typed before has its colours. A task of more than 50 ms is felt (the W3C's Long
Tasks call it long). The service is a real one, and shares the machine with the browser: the browser's own work counts,
not the wait for answers.
"""

from pathlib import Path
from typing import Any

import click
import torch

from benchmarks import report
from benchmarks.chromium import ARGUMENTS, CHROMIUM, SETTLED
from benchmarks.service_stack import start_stack

_SENTENCE = "It was great at first, and then it broke. Nobody answered, and I am not sure what to say about that. "
_KEYS = "and so on. "
_SLOWER = (1, 4)  # times: this machine, and a telephone beside it
_LONG_TASKS = """() => {
  window.longTasks = [];
  new PerformanceObserver((list) => window.longTasks.push(...list.getEntries().map((one) => one.duration)))
    .observe({ type: "longtask" });
}"""


@click.command()
@click.option(
    "--size", "sizes", type=int, multiple=True, default=(500, 5_000, 20_000), show_default=True, help="Characters."
)
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the figures to this file.")
def page(sizes: tuple[int, ...], path: Path | None) -> None:
    """What a key costs the browser while a text is read as it is typed; needs Chromium."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - of those who develop alone

    if CHROMIUM is None:
        raise click.ClickException("Chromium is not installed")
    rows: list[dict[str, Any]] = []
    click.echo("characters  slower  ms per key  tasks over 50 ms  longest")
    with start_stack() as stack, sync_playwright() as playwright:
        del stack.environment["NEURON_WORKER_PREFIX_CACHE_MB"]  # states are kept, as they are by default
        stack.add_worker()
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        for size in sizes:
            for slower in _SLOWER:
                rows.append(_typed(browser, stack.url, size, slower))
                click.echo(
                    "{characters:10,}  {slower:6}  {ms_per_key:10.1f}  {long_tasks:16}  {longest_ms:7.0f}".format(
                        **rows[-1]
                    )
                )
        browser.close()
    report.write(path, {"machine": report.machine(torch.device("cpu")), "keys": len(_KEYS), "rows": rows})


def _typed(browser: Any, url: str, size: int, slower: int) -> dict[str, Any]:
    """Type at the end of a text of `size` characters, in a browser that is `slower` times slower than the machine."""
    context = browser.new_context(reduced_motion="reduce")
    opened = context.new_page()
    opened.goto(url)
    opened.fill("#text", (_SENTENCE * (1 + size // len(_SENTENCE)))[: size - len(_KEYS)] + " ")
    opened.wait_for_function(SETTLED)
    devtools = context.new_cdp_session(opened)
    devtools.send("Emulation.setCPUThrottlingRate", {"rate": slower})
    devtools.send("Performance.enable")
    opened.focus("#text")
    opened.keyboard.press("Control+End")
    opened.evaluate(_LONG_TASKS)
    busy_s = 0.0
    for key in _KEYS:
        before = _busy_s(devtools)
        opened.keyboard.press(key if key != " " else "Space")
        opened.wait_for_timeout(300 * slower)  # to wait for a condition would be work of the browser
        busy_s += _busy_s(devtools) - before
    long_tasks = opened.evaluate("window.longTasks")
    context.close()
    return {
        "characters": size,
        "slower": slower,
        "ms_per_key": 1000 * busy_s / len(_KEYS),
        "long_tasks": len(long_tasks),
        "longest_ms": max(long_tasks, default=0.0),
    }


def _busy_s(devtools: Any) -> float:
    """Seconds that the page's main thread was busy since it began."""
    metrics = {one["name"]: one["value"] for one in devtools.send("Performance.getMetrics")["metrics"]}
    return float(metrics["TaskDuration"])
