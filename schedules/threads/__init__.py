"""Kernels written thread by thread: Python that emits TIR, in which code says what one thread does.

A Python value is known while the kernel is written; a TVM expression (`Expr`) only while it runs.
So a Python ``if`` or ``for`` chooses what is emitted, and `control` emits conditions and loops.
Such a kernel is for GPUs; on a CPU `emulator` runs its CUDA text.

    kernel            `Kernel`: operands by name, the launch, the TIR function
    launch            `Launch`, and the `Thread` that code is about
    control           `when`, `either`, `repeat`, `serial`, `unrolled`, `vectorized`, `grid`,
                      `shared_out`
    registers         `bind` or `keep` a value; `Variable`, `Registers`
    shared_layout     `SharedLayout`: named parts of shared memory, in plain numbers
    shared_memory     `SharedMemory`: the same parts in a kernel
    async_pipeline    `AsyncCopyPipeline`: commit, wait, release, on cp.async
    barrier_pipeline  `BarrierPipeline`: acquire, commit, wait, release, on mbarriers
    ptx               the PTX instructions, as functions
    packed_bytes      8-bit integers in registers, from and to fp32
    byte_products     products of 8-bit integers, four in an instruction, and back to bytes
    packed_integers   8-bit integers as packed pairs of fp16, to compare them
    tensor_map        what the copy engine has to know of a tensor
    emulator          runs a kernel on this CPU, thread by thread, and finds its mistakes

Example, out of a matrix product with three stages of cp.async::

    layout = SharedLayout(
        Stages(3, Part("a", "float16", (64, 32)), Part("b", "float16", (32, 64)))
    )

    with Kernel(signature) as kernel, kernel.launch(Launch(blocks, threads=128)) as thread:
        shared = SharedMemory(layout)
        pipeline = AsyncCopyPipeline(stages=3, stage_bytes=layout["a"].stride(1))
        sums = Registers.array("sums", (8, 4), "float32")
        for step in range(pipeline.ahead):
            copy(step, pipeline.stage(step))
            pipeline.commit()
        with serial(steps) as step:
            pipeline.wait()                     # the stage of `step` has arrived
            stage, following = pipeline.stage(step), step + pipeline.ahead
            with when(following < steps):
                copy(following, pipeline.stage(following))
            pipeline.commit()
            multiply(shared.pointer("a", stage), shared.pointer("b", stage))
    return kernel.function

The formula of an epilogue is `schedules.expressions.compute.finished`, on fp32 values.
"""
