#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A Llama of random weights in llama.cpp's format, of the size of this library's 160M preset, to compare speeds with.

    python bench/peers/random_llama.py llama-160M-bf16.gguf

D 768, 12 blocks, 12 heads, feed-forward 2048, vocabulary 50304, head not tied: 162.2 million parameters, where the preset
has 162.3. Needs numpy and gguf.
"""
import sys

import gguf
import numpy

if len(sys.argv) != 2:
    sys.exit(f"usage: {sys.argv[0]} FILE.gguf")
dim, blocks, heads, ffn, vocabulary = 768, 12, 12, 2048, 50304

writer = gguf.GGUFWriter(sys.argv[1], "llama")
writer.add_name("random-160M")
writer.add_vocab_size(vocabulary)
writer.add_context_length(8192)
writer.add_embedding_length(dim)
writer.add_block_count(blocks)
writer.add_feed_forward_length(ffn)
writer.add_head_count(heads)
writer.add_head_count_kv(heads)
writer.add_layer_norm_rms_eps(1e-5)
writer.add_rope_dimension_count(dim // heads)
writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
writer.add_tokenizer_model("no_vocab")

random = numpy.random.default_rng(0)
parameters = 0


def add(name, *shape):
    global parameters
    parameters += int(numpy.prod(shape))
    if len(shape) == 1:
        writer.add_tensor(name, numpy.ones(shape, numpy.float32))
        return
    values = (0.02 * random.standard_normal(shape)).astype(numpy.float32)
    bits = (values.view(numpy.uint32) >> 16).astype(numpy.uint16)
    writer.add_tensor(name, bits.view(numpy.uint8).reshape(shape[0], 2 * shape[1]),
                      raw_dtype=gguf.GGMLQuantizationType.BF16)


add("token_embd.weight", vocabulary, dim)
for block in range(blocks):
    add(f"blk.{block}.attn_norm.weight", dim)
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        add(f"blk.{block}.{name}.weight", dim, dim)
    add(f"blk.{block}.ffn_norm.weight", dim)
    add(f"blk.{block}.ffn_gate.weight", ffn, dim)
    add(f"blk.{block}.ffn_up.weight", ffn, dim)
    add(f"blk.{block}.ffn_down.weight", dim, ffn)
add("output_norm.weight", dim)
add("output.weight", vocabulary, dim)

writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
print(f"{sys.argv[1]}: {parameters} parameters")
