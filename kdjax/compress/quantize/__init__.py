"""Quantization: arrays as integers of 2 to 8 bits.

One array, evenly spaced or by a codebook; each method is pure, and 0.0 stays 0.0::

    q = quantize.uniform(kernel, bits=4, bounds=quantize.mse())
    q = quantize.kmeans(kernel, bits=3)
    kernel = q.dequantized()

The weights of a network, after training and while it trains::

    four_bits = functools.partial(quantize.uniform, bits=4)
    small = quantize.quantized(params, four_bits)
    student = networks.transformed(student, quantize.straight_through(four_bits))

Activations, and all in int8::

    activations = quantize.calibrated(network, variables, batches)
    coarse = quantize.with_activations(network, activations)
    module, variables = quantize.integer(module, variables, images)

`compress.save` writes what is quantized as packed bits.
"""

from kdjax.compress.quantize._activations import Activations as Activations
from kdjax.compress.quantize._activations import calibrated as calibrated
from kdjax.compress.quantize._activations import with_activations as with_activations
from kdjax.compress.quantize._bounds import Bounds as Bounds
from kdjax.compress.quantize._bounds import min_max as min_max
from kdjax.compress.quantize._bounds import mse as mse
from kdjax.compress.quantize._bounds import percentile as percentile
from kdjax.compress.quantize._codebooks import kmeans as kmeans
from kdjax.compress.quantize._codebooks import nf4 as nf4
from kdjax.compress.quantize._codebooks import power_of_two as power_of_two
from kdjax.compress.quantize._integer import integer as integer
from kdjax.compress.quantize._quantized import Method as Method
from kdjax.compress.quantize._quantized import Quantized as Quantized
from kdjax.compress.quantize._quantized import dequantized as dequantized
from kdjax.compress.quantize._quantized import quantized as quantized
from kdjax.compress.quantize._quantized import straight_through as straight_through
from kdjax.compress.quantize._uniform import find_bounds as find_bounds
from kdjax.compress.quantize._uniform import rounded as rounded
from kdjax.compress.quantize._uniform import uniform as uniform
