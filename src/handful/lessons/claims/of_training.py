"""Claims of "Training"."""

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
from handful.lessons.registry import TRAINING

CLAIMS = (
    Claim(
        TRAINING,
        "33-58",
        "Ten steps by hand at a rate of 0.001 lower the loss each time.",
        tensors.by_hand,
        judge_descents.by_hand_falls,
    ),
    Claim(
        TRAINING,
        "40-41",
        "Gradients must be reset before each backward pass.",
        tensors.accumulate,
        judge_descents.gradients_add_up,
    ),
    Claim(
        TRAINING,
        "61",
        "The main reason for mini-batches is memory; else there are few.",
        sizes.measure_sizes,
        judge_loading.memory_is_the_reason,
    ),
    Claim(
        TRAINING,
        "63",
        "Momentum is better than the plain gradient.",
        descents.push,
        judge_descents.momentum_helps,
    ),
    Claim(
        TRAINING,
        "63",
        "Changing the rate with time is better.",
        descents.schedule,
        judge_descents.schedules_help,
    ),
    Claim(
        TRAINING,
        "143",
        "Shuffling may help training.",
        models.shuffle,
        judge_models.shuffling_helps,
    ),
    Claim(
        TRAINING,
        "143",
        "Shuffling does not matter in testing.",
        models.evaluation,
        judge_models.order_is_free,
    ),
    Claim(
        TRAINING,
        "192",
        "Reading samples when they are asked for allows data larger than memory.",
        loading.streamed,
        judge_loading.streams_large_data,
    ),
    Claim(
        TRAINING,
        "192",
        "Workers that call a data set side by side are faster.",
        loading.workers,
        judge_loading.workers_help,
    ),
    Claim(
        TRAINING,
        "193",
        "Batches are made on the CPU, then moved to the device.",
        tensors.device,
        judge_gpu,
    ),
    Claim(
        TRAINING,
        "267-284",
        "The mean of the batches' losses is the mean loss.",
        models.running_mean,
        judge_models.batch_mean_is_mean,
    ),
    Claim(
        TRAINING,
        "300",
        "For some layers, train and eval modes differ; for others not.",
        models.evaluation,
        judge_models.eval_matters,
    ),
    Claim(
        TRAINING,
        "301",
        "Validation without gradients saves work.",
        models.evaluation,
        judge_models.no_grad_saves,
    ),
)
