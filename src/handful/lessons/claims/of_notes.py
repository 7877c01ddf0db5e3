"""Claims of "SGD and Mini-Batches"."""

from __future__ import annotations

from handful.lessons.claims import (
    descents,
    judge_descents,
    judge_loading,
    judge_models,
    loading,
    models,
    sizes,
    tensors,
)
from handful.lessons.claims.claim import Claim, judge_gpu
from handful.lessons.registry import NOTES

CLAIMS = (
    Claim(
        NOTES,
        "7",
        "Going through all data for a step takes too long.",
        sizes.measure_sizes,
        judge_loading.few_beat_full,
    ),
    Claim(
        NOTES,
        "7",
        "The gradient of one sample is imprecise and unstable.",
        models.noise,
        judge_models.noise_falls,
    ),
    Claim(
        NOTES,
        "9",
        "Larger batches estimate the gradient more precisely.",
        models.noise,
        judge_models.noise_falls,
    ),
    Claim(
        NOTES,
        "9",
        "Larger batches take longer.",
        models.epoch_times,
        judge_models.larger_takes_longer,
    ),
    Claim(
        NOTES,
        "9",
        "Larger batches are fewer in an epoch.",
        descents.walk,
        judge_descents.larger_batches_are_fewer,
    ),
    Claim(
        NOTES,
        "13",
        "Accelerators are fast only with much work at a time.",
        tensors.device,
        judge_gpu,
    ),
    Claim(
        NOTES,
        "13",
        "Too large a batch runs out of the accelerator's memory.",
        tensors.device,
        judge_gpu,
    ),
    Claim(
        NOTES,
        "15",
        "Mixing the training data gives better generalisation.",
        models.shuffle,
        judge_models.shuffling_helps,
    ),
    Claim(
        NOTES,
        "20-25",
        "A shuffling loader gives every item once, in batches.",
        loading.orders,
        judge_loading.loader_reshuffles,
    ),
    Claim(
        NOTES,
        "53-57",
        "The printed loop, with its update in place, trains the parameters.",
        tensors.printed_update,
        judge_descents.step_works,
    ),
)
