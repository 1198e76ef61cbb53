"""The fusion engine: contributions and a base model in, the bytes of the next base model out.

It knows neither the object store nor Redis; files come in as ``ByteSource`` objects.

==================  ==============================================================================
``layout``          parses and checks a safetensors header; ``ByteSource``
``dtypes``          the dtypes that are known, bytes to floats and back
``compatibility``   whether a contribution's tensors fit the base model
``coefficients``    the scalar that each contribution's delta is multiplied by
``chunks``          which bytes of each file are read together
``methods``         the arithmetic: how deltas are combined, one file for each method
``inputs``          contributions to a fusion, checked and opened
``terms``           the numbers that go into it, block by block
``momentum``        how a model goes on beyond what was fused, and the state that it needs
``combine``         fuses one chunk; finds out whose fault it is when that fails
``reader``          reads one file chunk by chunk and verifies its digest
``model_reader``    the same for the files of a base model
``surveying``       shows a survey all deltas, before they are combined
``faults``          errors that are one contribution's own
``stream``          ``Fusion`` and ``fuse_stream``, which tie them together
==================  ==============================================================================
"""

from __future__ import annotations
