"""From a float network to one in 8 bits: calibrated, placed, written as standard QDQ ONNX.

    quantize            the way through, below
                        (what it is fed is checked by `tvmconv.onnx.ranges.feeds`)
    prepare -> Network  the float graph, batch norms folded, every node with a name
    layers              convolutions and matrix products, and what their kernels do beside
    placement           which tensors are in 8 bits, and which of them share a scale
    calibration         ranges, by onnxruntime's calibrators; scales
    write               the QDQ model
    correction          biases that take back what rounding shifts
    accuracy            its error, layer by layer
    search              which layers go back to float for a bound on the error

Words: a *layer* is a convolution or a product with a constant matrix. A *reader* of a tensor is a
node that has it as an input.
"""
