"""`make bench`: what token-balanced packing is worth, counted in tokens and measured in time.

Peers: the batches that Prismatic and LLaVA train on (one modality a batch, grouped by length, dealt to ranks), counted
and with our own model on them; HF Trainer with LlavaForConditionalGeneration, grouped by length.

The lengths are of a mixture like LLaVA-1.5's 665K: the rows of every source are counted, how long they are is assumed
(log-normal, see SOURCES). For the time they are divided, so that a small model on one core reads an epoch of them in
minutes; ``--device cuda --model 1b`` takes them as they are.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator

import numpy as np

from vlmablate.training.balance import DataOrder, efficiency, place_rows, row_tokens, straggler

# source: rows (counted), median and log-standard deviation of its text tokens (assumed), a picture?
SOURCES = {
    "llava-instruct": (157_712, 220, 0.55, True),
    "sharegpt": (40_688, 900, 0.80, False),
    "vqav2": (82_783, 110, 0.35, True),
    "gqa": (72_140, 150, 0.35, True),
    "okvqa": (8_998, 60, 0.25, True),
    "ocrvqa": (80_000, 110, 0.25, True),
    "aokvqa": (66_160, 90, 0.20, True),
    "textcaps": (21_953, 55, 0.25, True),
    "refcoco": (48_447, 250, 0.60, True),
    "vg": (86_417, 300, 0.50, True),
}
CUT, PATCHES, RANKS, BATCH = 2048, 576, 8, 128
STEPS_COUNTED = 200
Rows = list[list[list[int]]]


def drawn_lengths(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Text tokens [N] of all rows of the mixture, and which have a picture."""
    text = [rng.lognormal(np.log(median), sd, rows) for rows, median, sd, _ in SOURCES.values()]
    pictured = [np.full(rows, picture) for rows, _, _, picture in SOURCES.values()]
    return np.clip(np.rint(np.concatenate(text)), 2, CUT).astype(int), np.concatenate(pictured)


def grouped(text: np.ndarray, pictured: np.ndarray, seed: int) -> Iterator[Rows]:
    """[rank][one micro-batch] of the policy of LLaVA and Prismatic, one global batch after the other.

    Every global batch is of one modality. Its samples, longest text first, go one by one to the rank with the fewest
    text tokens that still has room; each rank pads to its own longest.
    """
    rng = np.random.default_rng(seed)
    batches = []
    for modality in (True, False):
        order = rng.permutation(np.flatnonzero(pictured == modality))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            ranks: list[list[int]] = [[] for _ in range(RANKS)]
            totals = [0] * RANKS
            for sample in chosen[np.argsort(-text[chosen], kind="stable")].tolist():
                open_ranks = [r for r in range(RANKS) if len(ranks[r]) < BATCH // RANKS]
                rank = min(open_ranks, key=lambda r: totals[r])
                ranks[rank].append(sample)
                totals[rank] += int(text[sample])
            batches.append([[rank] for rank in ranks])
    yield from (batches[index] for index in rng.permutation(len(batches)))


def balanced(lengths: np.ndarray, seed: int, budget: int | None) -> Iterator[Rows]:
    """Ours."""
    order = DataOrder(len(lengths), BATCH, 1, seed)
    for step in range(order.steps):
        chosen = order.at(step)
        placed = place_rows(lengths[chosen].tolist(), RANKS, budget)
        yield [[chosen[row].tolist() for row in rank] for rank in placed]


def first(batches: Iterator[Rows], count: int) -> list[Rows]:
    return [rows for rows, _ in zip(batches, range(count), strict=False)]


def count_tokens() -> None:
    """Real tokens per processed token and the busiest rank, without any model."""
    text, pictured = drawn_lengths(np.random.default_rng(0))
    for patches in (256, PATCHES, 729):
        lengths = text + patches * pictured
        counted = {}
        for name, batches in (
            ("grouped, padded", grouped(text, pictured, 1)),
            ("packed, one row a rank", balanced(lengths, 1, None)),
            ("packed, rows of <= 8192", balanced(lengths, 1, 8192)),
            ("packed, rows of <= 4096", balanced(lengths, 1, 4096)),
        ):
            real = processed = waited = 0
            worst = []
            for rows in first(batches, STEPS_COUNTED):
                tokens = row_tokens(rows, lengths.tolist())
                if name.startswith("grouped"):
                    cost = np.array(
                        [[len(row) * max(lengths[i] for i in row) for row in rank] for rank in rows]
                    )
                else:
                    cost = tokens
                real += tokens.sum()
                processed += cost.sum()
                waited += cost.sum() / efficiency(cost)
                worst.append(straggler(cost))
            counted[name] = real / waited
            print(
                f"{patches} patches, {name:<24} real/processed {real / processed:.3f}   with the wait for the slowest "
                f"rank {real / waited:.4f} ({counted[name] / counted['grouped, padded']:.2f} x)   "
                f"busiest rank/mean {np.mean(worst):.4f} (worst {max(worst):.4f})",
                flush=True,
            )


def epoch(shrink: float, batches: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Text tokens and pictures of an epoch of whole batches, with the mixture's share of texts; lengths divided."""
    text, pictured = drawn_lengths(np.random.default_rng(seed))
    rng = np.random.default_rng([seed, 1])
    texts = BATCH * max(1, round(batches * float(1 - pictured.mean())))
    chosen = np.concatenate(
        [
            rng.permutation(np.flatnonzero(pictured == shown))[:count]
            for shown, count in ((True, BATCH * batches - texts), (False, texts))
        ]
    )
    return np.maximum(4, np.rint(text[chosen] / shrink)).astype(int), pictured[chosen]


def quartiles(values: list[float]) -> str:
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"{middle:,.0f} ({low:,.0f} to {high:,.0f})"


def time_training(device_name: str, model: str, batches: int) -> None:
    """Real tokens a second of one epoch of the same samples, on the same weights, step by step in turns."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch
    from training_peers import SIZES, Clock, Turns, World, drawn_samples, peer_trainer
    from transformers import PrinterCallback

    from vlmablate.training.meters import peak_of

    torch.set_num_threads(1)
    size, device = SIZES[model], torch.device(device_name)
    text, pictured = epoch(size.shrink, batches, 0)
    samples = drawn_samples(text, pictured, size, 0)
    world = World(size, samples, device)
    micro = BATCH // RANKS
    plans = {"packed": list(balanced(world.lengths, 1, None)), "padded": list(grouped(text, pictured, 1))}
    layouts = {"packed": world.packed, "padded": world.padded}
    asked = [int((sample.targets >= 0).sum()) for sample in samples]
    tokens: dict[str, list[int]] = {name: [] for name in plans}
    # [step][rank]: seconds of wall and of this process; of an update.
    pieces: dict[str, list[np.ndarray]] = {name: [] for name in plans}
    updates: dict[str, list[np.ndarray]] = {name: [] for name in plans}
    memory = dict.fromkeys((*plans, "HF Trainer"), 0.0)

    def peak(name: str) -> None:
        if device.type == "cuda":
            memory[name] = max(memory[name], torch.cuda.max_memory_allocated() / 2**30)
            torch.cuda.reset_peak_memory_stats()

    def others(step: int) -> None:
        peak("HF Trainer")
        for name in list(plans) if step % 2 else list(plans)[::-1]:
            ranks = plans[name][step]
            members = [i for rank in ranks for row in rank for i in row]
            total = sum(asked[i] for i in members)
            seconds = np.stack([world.timed(layouts[name], rank, total) for rank in ranks])
            pieces[name].append(seconds)
            updates[name].append(world.timed_update())
            tokens[name].append(int(world.lengths[members].sum()))
            peak(name)

    # Once before anything is timed; at the same weights the three must also agree.
    rows = [list(range(micro))]
    total = sum(asked[:micro])
    losses = []
    for layout in layouts.values():
        world.timed(layout, rows, total)
        losses.append(float(world.loss.detach()))
    world.optimiser.zero_grad(set_to_none=True)
    with tempfile.TemporaryDirectory() as folder:
        trainer, collator = peer_trainer(size, samples, world.pictures, micro, BATCH, folder, device)
        inputs = {
            k: v.to(device) for k, v in collator([trainer.train_dataset[i] for i in range(micro)]).items()
        }
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, size.precision == "bf16"):
            losses.append(float(trainer.model(**inputs).loss))
        assert max(losses) - min(losses) < (1e-4 if size.precision == "fp32" else 5e-2), losses
        collator.real = collator.processed = 0
        turns = Turns(Clock(device), collator, others)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(turns)
        trainer.train()

    print(
        f"\n{model} on {device}: {batches} global batches of {BATCH} samples, {sum(tokens['packed']):,} real tokens, "
        f"one thread; the same weights, loss {losses[0]:.4f} in all three. {RANKS} ranks are simulated one after the "
        "other: a step takes as long as its slowest rank, laying out, forward and backward.",
        flush=True,
    )
    if sum(tokens["packed"]) != sum(tokens["padded"]) or sum(tokens["packed"]) != collator.real:
        raise AssertionError((sum(tokens["packed"]), sum(tokens["padded"]), collator.real))
    real = sum(tokens["packed"])
    peak_rate = peak_of(device)
    operations = sum(size.operations(sample) for sample in samples)
    together, alone = {}, {}
    for name, steps in pieces.items():
        slowest = np.stack([step.max(axis=0) for step in steps])
        one = np.stack([step.sum(axis=0) + update for step, update in zip(steps, updates[name], strict=True)])
        together[name], alone[name] = real / slowest.sum(axis=0), real / one.sum(axis=0)
        rates = [count / seconds for count, seconds in zip(tokens[name], slowest[:, 0], strict=True)]
        print(
            f"{name + ' as 8 ranks':<24} {together[name][0]:8,.0f} real tokens/s of a rank x 8   "
            f"median of steps {quartiles(rates)}"
        )
    alone["HF Trainer"] = real / sum(seconds for seconds, _ in turns.steps)
    for name, rate in alone.items():
        extra = f"   peak memory {memory[name]:.1f} GiB" if device.type == "cuda" else ""
        if peak_rate is not None:
            extra += f"   MFU {operations / real * rate[0] / peak_rate:.3f}"
        print(
            f"{name + ' as one process':<24} {rate[0]:8,.0f} real tokens/s, with the update of weights{extra}"
        )
    print(f"HF Trainer pads to {collator.real / collator.processed:.3f} real tokens per processed one")
    for title, ratio, bar in (
        ("packed / padded grouped", together["packed"] / together["padded"], "1.5"),
        ("packed / HF Trainer", alone["packed"] / alone["HF Trainer"], "1"),
    ):
        print(
            f"{title}: {ratio[0]:.2f} x (bar {bar}); by the time of this process {ratio[1]:.2f} x", flush=True
        )


if __name__ == "__main__":
    options = argparse.ArgumentParser(description="What packing is worth.")
    options.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options.add_argument("--model", default="small", choices=("small", "1b"))
    options.add_argument("--batches", type=int, default=16, help="global batches of the timed epoch")
    chosen = options.parse_args()
    if chosen.device == "cpu":
        count_tokens()
    time_training(chosen.device, chosen.model, chosen.batches)
