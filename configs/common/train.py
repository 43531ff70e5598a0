"""What every training run has, to be imported as `train` and changed field by field; `openvocab.engine.TrainSettings` says more."""

train = dict(
    output_dir="output",
    init_checkpoint="",  # weights to start from, or to evaluate
    max_iter=1000,
    device="auto",  # cuda where there is one, else cpu
    seed=0,
    amp=dict(enabled=False, dtype="bfloat16"),  # float16 only with a GPU
    ddp=dict(broadcast_buffers=False, find_unused_parameters=False, fp16_compression=False),
    clip_grad=dict(max_norm=0.0),  # 0: no clipping
    ema=dict(enabled=False, decay=0.999),
    checkpointer=dict(period=500, max_to_keep=3),
    eval_period=0,  # 0: only at the end; negative: never
    log_period=20,
    accumulate=1,  # batches for one step
    reference_batch_size=None,  # the batch for which optimizer.lr was chosen
    scale_lr=False,  # by the linear rule, when the batch is another
    best_metric="mean/AP50",  # its best is kept as model_best.pth
    max_seconds=0,  # stop, with a checkpoint, after so long; 0: no limit
    expected_results=[],  # [dataset, task, metric, value, tolerance]
)
