"""What every training run has, to be imported as `train` and changed field by field."""

train = dict(
    output_dir="output",
    init_checkpoint="",
    max_iter=1000,
    device="auto",  # cuda where there is one, else cpu
    seed=0,
    amp=dict(enabled=False, dtype="bfloat16"),
    ddp=dict(broadcast_buffers=False, find_unused_parameters=False),
    clip_grad=dict(max_norm=0.0),  # 0: no clipping
    ema=dict(enabled=False, decay=0.999),
    checkpointer=dict(period=500, max_to_keep=3),
    eval_period=0,  # 0: only at the end
    log_period=20,
)
