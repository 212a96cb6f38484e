// Schemas of the Puffin kernels. csrc/cpu implements all and csrc/cuda most of them; src/puffin/ops/<op>.py says what
// they mean, states the same schema for its oracle, and refuses a library built from other schemas. A library is out of
// date when this file has changed, so say here what a schema does not: on the CPU, pair_*, message and sparse_conv also
// take tables of bfloat16.
//
// Only PyTorch's stable C ABI is used (torch/csrc/stable): one build serves several PyTorch releases.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(puffin, m) {
  m.def("farthest_point_sampling(Tensor points, Tensor lengths, Tensor k, Tensor start, int width) -> Tensor");
  m.def("knn(Tensor queries, Tensor points, Tensor lengths1, Tensor lengths2, int k) -> (Tensor, Tensor)");
  m.def("ball_count(Tensor queries, Tensor points, Tensor lengths1, Tensor lengths2, float radius) -> Tensor");
  m.def("ball_query(Tensor queries, Tensor points, Tensor lengths1, Tensor lengths2, float radius, int k) -> Tensor");
  m.def("cnms(Tensor points, Tensor lengths, float radius) -> (Tensor, Tensor)");
  m.def("local_geometry(Tensor points, Tensor ptr, int[] neighbours, float[] radii) -> Tensor");
  m.def("components(Tensor points, Tensor ptr, float radius) -> Tensor");
  m.def("chamfer(Tensor x, Tensor y, Tensor lengths_x, Tensor lengths_y) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "chamfer_backward(Tensor grad_x, Tensor grad_y, Tensor x, Tensor y, Tensor index_x, Tensor index_y)"
      " -> (Tensor, Tensor)");
  m.def(
      "pair_reduce(Tensor x, Tensor? weights, Tensor node_ptr, Tensor upper_ptr, int num_nodes)"
      " -> (Tensor, Tensor, Tensor)");
  m.def(
      "pair_expand(Tensor u, Tensor v, Tensor? w, Tensor? weights, Tensor? base, Tensor node_ptr,"
      " Tensor upper_ptr, int num_upper) -> Tensor");
  m.def(
      "pair_mix(Tensor x, Tensor even, Tensor odd, Tensor u, Tensor v, Tensor? w, Tensor node_ptr, Tensor upper_ptr,"
      " float slope) -> Tensor");
  m.def(
      "pair_mix_backward(Tensor grad, Tensor y, Tensor x, Tensor even, Tensor odd, Tensor node_ptr, Tensor upper_ptr,"
      " int num_nodes, float slope) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "pair_embed(Tensor x, Tensor weight, Tensor bias, Tensor exponent, Tensor u, Tensor v, Tensor w, Tensor node_ptr,"
      " Tensor upper_ptr, float offset, bool signed, float slope, bool half) -> Tensor");
  m.def(
      "pair_embed_backward(Tensor grad, Tensor x, Tensor weight, Tensor bias, Tensor exponent, Tensor u, Tensor v,"
      " Tensor w, Tensor node_ptr, Tensor upper_ptr, float offset, bool signed, float slope, bool needs_x)"
      " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def("message(Tensor x, Tensor weight, Tensor bias, float slope) -> (Tensor, Tensor, Tensor)");
  m.def(
      "message_backward(Tensor grad, Tensor y, Tensor x, Tensor weight, Tensor mean, Tensor offset, Tensor factor,"
      " float slope) -> (Tensor, Tensor, Tensor)");
  m.def(
      "pair_message(Tensor x, Tensor weight, Tensor bias, float slope, Tensor? weights, Tensor node_ptr,"
      " Tensor upper_ptr, int num_nodes) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "pair_message_backward(Tensor? grad, Tensor y, Tensor x, Tensor weight, Tensor mean, Tensor offset,"
      " Tensor factor, Tensor diagonal, Tensor rows, Tensor columns, Tensor? weights, Tensor node_ptr,"
      " Tensor upper_ptr, float slope) -> (Tensor, Tensor, Tensor)");
  m.def(
      "equivariant_nodes(Tensor[] quantities, Tensor scale, Tensor shift, Tensor coefficients, Tensor alphas,"
      " Tensor bias, Tensor? diagonal_bias, Tensor? weights, Tensor multiplicity, Tensor node_ptr, int[] maps,"
      " bool pairs, float nbar) -> (Tensor[], Tensor, Tensor, Tensor)");
  m.def(
      "equivariant_nodes_backward(Tensor[] grads, Tensor grad_even, Tensor grad_odd, Tensor factors,"
      " Tensor[] quantities, Tensor scale, Tensor shift, Tensor coefficients, Tensor alphas, Tensor? weights,"
      " Tensor multiplicity, Tensor node_ptr, int[] maps, bool pairs, float nbar)"
      " -> (Tensor[], Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "pair_blocks(Tensor x, Tensor[] message_weights, Tensor[] message_biases, Tensor[] scales, Tensor[] shifts,"
      " Tensor[] coefficients, Tensor[] alphas, Tensor[] biases, Tensor[] diagonal_biases, Tensor? weights,"
      " Tensor multiplicity, Tensor node_ptr, Tensor upper_ptr, int[] maps, float message_slope, float mix_slope,"
      " float nbar) -> Tensor");
  m.def("low_rank(Tensor in_maps, Tensor out_maps, Tensor in_out0, Tensor in_out1) -> Tensor");
  m.def(
      "low_rank_backward(Tensor grad, Tensor in_maps, Tensor out_maps, Tensor in_out0, Tensor in_out1)"
      " -> (Tensor, Tensor, Tensor, Tensor)");
  m.def("piecewise_linear(Tensor x, Tensor values, float low, float high) -> Tensor");
  m.def("piecewise_linear_backward(Tensor grad, Tensor x, Tensor values, float low, float high) -> (Tensor, Tensor)");
  m.def("segment_sum(Tensor x, Tensor ptr) -> Tensor");
  m.def("segment_expand(Tensor x, Tensor ptr, int rows) -> Tensor");
  m.def("segment_extremum(Tensor x, Tensor ptr, bool largest) -> Tensor");
  m.def("segment_extremum_backward(Tensor grad, Tensor extremum, Tensor x, Tensor ptr) -> Tensor");
  m.def("segment_attention(Tensor qkv, Tensor ptr, Tensor? seed, int heads, float dropout) -> (Tensor, Tensor)");
  m.def(
      "segment_attention_backward(Tensor grad, Tensor qkv, Tensor out, Tensor lse, Tensor ptr, Tensor? seed, int heads,"
      " float dropout) -> Tensor");
  m.def("voxel_neighbours(Tensor coordinates, Tensor ptr) -> Tensor");
  m.def("sparse_conv(Tensor x, Tensor weight, Tensor table, Tensor transposed) -> Tensor");
  m.def("sparse_conv_weight(Tensor x, Tensor grad, Tensor table) -> Tensor");
}
