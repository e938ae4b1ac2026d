// SPDX-License-Identifier: Apache-2.0
// The backend of devices operation by operation beside the reference in double.
#include "xlstm/cuda/backend.hpp"

#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "catch.hpp"
#include "device_values.hpp"
#include "xlstm/reference/backend.hpp"

using xlstm::DenseWeight;
using xlstm::Form;
using xlstm::MatrixView;
using xlstm::MLSTMInput;
using xlstm::Run;
using xlstm::StateSlots;
using xlstm::VectorParameter;
using xlstm::tests::DeviceRuntime;
using namespace device_values;

namespace {

namespace cuda = xlstm::cuda;

/// ‖found − expected‖ / ‖expected‖; infinite where a value is no number.
double distance(const std::vector<double>& found, const std::vector<double>& expected) {
  REQUIRE(found.size() == expected.size());
  double error = 0;
  double norm = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    error += (found[i] - expected[i]) * (found[i] - expected[i]);
    norm += expected[i] * expected[i];
  }
  return std::isfinite(error) ? std::sqrt(error / norm) : std::numeric_limits<double>::infinity();
}

// ---- products ----

TEST_CASE("a product is told to a BLAS library as that of the transposes", "[cuda]") {
  using Matrix = cuda::ColumnMajorMatrix;
  constexpr auto forward = cuda::column_major(cuda::linear_product(5, 3, 7, 4, 9));
  static_assert(forward.first == Matrix{3, 7, 3, true});    // W (7, 3)
  static_assert(forward.second == Matrix{3, 5, 4, false});  // X (5, 3)
  static_assert(forward.result == Matrix{7, 5, 9, false});
  constexpr auto input = cuda::column_major(cuda::linear_backward_input_product(5, 3, 7, 8, 4, true));
  static_assert(input.first == Matrix{3, 7, 3, false});
  static_assert(input.second == Matrix{7, 5, 8, false});  // dY (5, 7)
  static_assert(input.result == Matrix{3, 5, 4, false});
  constexpr auto weight = cuda::column_major(cuda::linear_backward_weight_product(5, 3, 7, 8, 4));
  static_assert(weight.first == Matrix{3, 5, 4, false});  // X
  static_assert(weight.second == Matrix{7, 5, 8, true});  // dYᵀ
  static_assert(weight.result == Matrix{3, 7, 3, false});
  alignas(256) const char memory[64] = {};
  CHECK(cuda::alignment_of(memory) == 256);
  CHECK(cuda::alignment_of(memory + 48) == 16);
  CHECK(cuda::alignment_of(memory + 1) == 1);
}

/// D (5 × 4) of A and B in each arrangement, against the definition.
template <class T>
void check_products(bool a_transposed, bool b_transposed, bool add, bool with_bias) {
  constexpr Index m = 5, n = 4, k = 6, a_stride = 8, b_stride = 9, d_stride = 7;
  Device<T> device;
  const Values<T> a(device, 8 * a_stride, 1), b(device, 8 * b_stride, 2), bias(device, n, 3),
      d(device, m * d_stride, 4);
  const cuda::MatrixProduct product{m, n, k, a_stride, b_stride, d_stride, a_transposed, b_transposed, add};
  device.queue().multiply(product, a.data, b.data, d.data, with_bias ? bias.data : nullptr);
  std::vector<double> expected = d.wide;
  for (Index i = 0; i < m; ++i) {
    for (Index j = 0; j < n; ++j) {
      double sum = (add ? d.wide[at(i * d_stride + j)] : 0) + (with_bias ? bias.wide[at(j)] : 0);
      for (Index l = 0; l < k; ++l) {
        sum += a.wide[at(a_transposed ? l * a_stride + i : i * a_stride + l)] *
               b.wide[at(b_transposed ? j * b_stride + l : l * b_stride + j)];
      }
      expected[at(i * d_stride + j)] = sum;
    }
  }
  check_close(downloaded(device, d.data, m * d_stride), expected, rounding<T>, 1e-5);
}

TEST_CASE("products of matrices in every arrangement", "[cuda]") {
  for (int i = 0; i < 16; ++i) {
    check_products<float>((i & 1) != 0, (i & 2) != 0, (i & 4) != 0, (i & 8) != 0);
    check_products<bf16>((i & 1) != 0, (i & 2) != 0, (i & 4) != 0, (i & 8) != 0);
  }
}

// ---- operations ----

/// y (rows, Out) of x whose rows lie `stride` apart, with a bias or none, in Y.
template <class T, class Y>
void check_linear(Index rows, Index stride) {
  constexpr Index in = 24, out = 17, other_out = 8;
  Device<T> device;
  const Values<T> x(device, rows * stride, 1), w(device, out * in, 2), w2(device, other_out * in, 3);
  const Values<float> bias(device, out, 4);
  DenseWeight<T, out, in> weight;
  weight.bind(w.data);
  DenseWeight<T, other_out, in> other;
  other.bind(w2.data);
  VectorParameter<float, out> biases;
  biases.bind(bias.data);
  const auto y = device.arena().template matrix<Y, out>(rows);
  const auto y2 = device.arena().template matrix<T, other_out>(rows);
  const MatrixView<const T, in> from(x.data, rows, in, stride);
  device.linear(from, xlstm::linear_term(weight, biases, y),
                xlstm::linear_term(other, VectorParameter<float, 0>{}, y2));

  std::vector<double> expected, expected2;
  for (Index r = 0; r < rows; ++r) {
    const auto sum = [&](const Values<T>& matrix, Index o, double start) {
      for (Index i = 0; i < in; ++i) start += x.wide[at(r * stride + i)] * matrix.wide[at(o * in + i)];
      return start;
    };
    for (Index o = 0; o < out; ++o) expected.push_back(sum(w, o, bias.wide[at(o)]));
    for (Index o = 0; o < other_out; ++o) expected2.push_back(sum(w2, o, 0));
  }
  // A bias is rounded to the type of the result before it is added.
  check_close(downloaded(device, y.data(), rows * out), expected, rounding<Y>, 1e-5 + 4 * rounding<Y>);
  check_close(downloaded(device, y2.data(), rows * other_out), expected2, rounding<T>, 1e-5);
}

TEST_CASE("linear: several matrices of one input, results in its type or fp32", "[cuda]") {
  for (const Index rows : {0, 1, 5}) {
    check_linear<float, float>(rows, 24);
    check_linear<bf16, float>(rows, 24);
    check_linear<bf16, bf16>(rows, 40);
    check_linear<f16, f16>(rows, 25);
    check_linear<f16, float>(rows, 24);
  }
}

template <class T>
void check_rms_norm(bool with_bias) {
  constexpr Index d = 40, rows = 3;
  Device<T> device;
  const Values<T> x(device, rows * d, 1);
  const Values<float> w(device, d, 2), b(device, d, 3);
  const auto y = device.arena().template matrix<T, d>(rows);
  float* const scale = device.arena().template allocate<float>(rows);
  VectorParameter<float, d> weight, bias;
  weight.bind(w.data);
  bias.bind(b.data);
  std::vector<double> wide_w = w.wide, wide_b = b.wide, expected(at(rows * d)), scales(at(rows));
  VectorParameter<double, d> wide_weight, wide_bias;
  wide_weight.bind(wide_w.data());
  wide_bias.bind(wide_b.data());
  xlstm::reference::Backend<double> reference;
  const MatrixView<const double, d> from{x.wide.data(), rows};
  if (with_bias) {
    device.template rms_norm<d, d>({x.data, rows}, weight, bias, 1e-6, y, scale);
    reference.rms_norm<d, d>(from, wide_weight, wide_bias, 1e-6, {expected.data(), rows}, scales.data());
  } else {
    device.template rms_norm<d, 0>({x.data, rows}, weight, {}, 1e-6, y, scale);
    reference.rms_norm<d, 0>(from, wide_weight, {}, 1e-6, {expected.data(), rows}, scales.data());
  }
  check_close(downloaded(device, y.data(), rows * d), expected, rounding<T>, 2e-6);
  check_close(downloaded(device, scale, rows), scales, 1e-6, 0);
}

TEST_CASE("RMS norm in fp32, whatever the activations are", "[cuda]") {
  for (const bool with_bias : {false, true}) {
    check_rms_norm<float>(with_bias);
    check_rms_norm<bf16>(with_bias);
    check_rms_norm<f16>(with_bias);
  }
}

/// rms_norm and linear in one, and one after the other.
template <class T>
void check_rms_norm_linear(Index rows) {
  constexpr Index d = 40, heads = 3, out = 24;
  Device<T> device;
  const Values<T> x(device, rows * d, 1), wi(device, heads * d, 2), wf(device, heads * d, 3), wq(device, out * d, 4);
  const Values<float> w(device, d, 5), b(device, heads, 6);
  VectorParameter<float, d> weight;
  weight.bind(w.data);
  VectorParameter<float, heads> bias;
  bias.bind(b.data);
  DenseWeight<T, heads, d> igate, fgate;
  igate.bind(wi.data);
  fgate.bind(wf.data);
  DenseWeight<T, out, d> wide;
  wide.bind(wq.data);
  const VectorParameter<float, 0> none;
  const MatrixView<const T, d> from(x.data, rows);
  std::vector<double> y[2], i[2], f[2], q[2];
  for (const bool fused : {false, true}) {
    const auto normed = device.arena().template matrix<T, d>(rows);
    const auto i_out = device.arena().template matrix<float, heads>(rows);
    const auto f_out = device.arena().template matrix<float, heads>(rows);
    const auto q_out = device.arena().template matrix<T, out>(rows);
    float* const scale = device.arena().template allocate<float>(rows);
    const auto run = [&](auto... terms) {
      if (fused) return device.rms_norm_linear(from, weight, none, 1e-6, normed, scale, terms...);
      device.rms_norm(from, weight, none, 1e-6, normed, scale);
      device.linear(MatrixView<const T, d>(normed), terms...);
    };
    run(xlstm::linear_term(igate, bias, i_out), xlstm::linear_term(wide, none, q_out),
        xlstm::linear_term(fgate, bias, f_out));
    y[fused] = downloaded(device, normed.data(), rows * d);
    i[fused] = downloaded(device, i_out.data(), rows * heads);
    f[fused] = downloaded(device, f_out.data(), rows * heads);
    q[fused] = downloaded(device, q_out.data(), rows * out);
  }
  CHECK(y[1] == y[0]);
  CHECK(q[1] == q[0]);
  check_close(i[1], i[0], 0, 1e-5);  // sums of 40 terms in fp32
  check_close(f[1], f[0], 0, 1e-5);
}

TEST_CASE("RMS norm and the products of its rows as one operation", "[cuda]") {
  for (const Index rows : {0, 1, 6}) {
    check_rms_norm_linear<float>(rows);
    check_rms_norm_linear<bf16>(rows);
    check_rms_norm_linear<f16>(rows);
  }
}

template <class T>
void check_multihead_norm(bool with_bias) {
  constexpr Index heads = 3, d = 36, rows = 3;
  Device<T> device;
  const Values<T> x(device, rows * d, 1);
  const Values<float> w(device, d, 2), b(device, d, 3);
  const auto y = device.arena().template matrix<T, d>(rows);
  float* const mean = device.arena().template allocate<float>(rows * heads);
  float* const scale = device.arena().template allocate<float>(rows * heads);
  VectorParameter<float, d> weight, bias;
  weight.bind(w.data);
  bias.bind(b.data);
  std::vector<double> wide_w = w.wide, wide_b = b.wide, expected(at(rows * d)), means(at(rows * heads)),
                      scales(at(rows * heads));
  VectorParameter<double, d> wide_weight, wide_bias;
  wide_weight.bind(wide_w.data());
  wide_bias.bind(wide_b.data());
  xlstm::reference::Backend<double> reference;
  const MatrixView<const double, d> from{x.wide.data(), rows};
  const MatrixView<double, d> to{expected.data(), rows};
  if (with_bias) {
    device.template multihead_norm<heads, d, d>({x.data, rows}, weight, bias, 1e-6, y, mean, scale);
    reference.multihead_norm<heads, d, d>(from, wide_weight, wide_bias, 1e-6, to, means.data(), scales.data());
  } else {
    device.template multihead_norm<heads, d, 0>({x.data, rows}, weight, {}, 1e-6, y, mean, scale);
    reference.multihead_norm<heads, d, 0>(from, wide_weight, {}, 1e-6, to, means.data(), scales.data());
  }
  check_close(downloaded(device, y.data(), rows * d), expected, rounding<T>, 4e-6);
  check_close(downloaded(device, mean, rows * heads), means, 1e-6, 1e-6);
  check_close(downloaded(device, scale, rows * heads), scales, 2e-6, 0);

  const Values<T> gate(device, rows * d, 4, 0, 3);
  std::vector<double> wide_gate = gate.wide;
  const MatrixView<double, d> gates{wide_gate.data(), rows};
  if (with_bias) {
    device.template gated_multihead_norm<heads, d, d>({gate.data, rows}, {x.data, rows}, weight, bias, 1e-6, y, mean,
                                                      scale);
    reference.gated_multihead_norm<heads, d, d>(gates, from, wide_weight, wide_bias, 1e-6, to, means.data(),
                                                scales.data());
  } else {
    device.template gated_multihead_norm<heads, d, 0>({gate.data, rows}, {x.data, rows}, weight, {}, 1e-6, y, mean,
                                                      scale);
    reference.gated_multihead_norm<heads, d, 0>(gates, from, wide_weight, {}, 1e-6, to, means.data(), scales.data());
  }
  check_close(downloaded(device, y.data(), rows * d), expected, rounding<T>, 8e-6);
}

TEST_CASE("the norm of each head, with a gate behind it or not, in fp32, whatever the activations are", "[cuda]") {
  for (const bool with_bias : {false, true}) {
    check_multihead_norm<float>(with_bias);
    check_multihead_norm<bf16>(with_bias);
  }
}

/// Operations of two matrices, with results in either, in strided rows.
template <class T>
void check_elementwise() {
  constexpr Index d = 21, rows = 3, stride = 24;
  Device<T> device;
  const Values<T> a(device, rows * stride, 1, 0, 3), b(device, rows * stride, 2);
  const Values<float> z(device, rows * d, 3, 0, 40);
  const MatrixView<T, d> x(a.data, rows, d, stride), up(b.data, rows, d, stride);
  const auto y = device.arena().template matrix<T, d>(rows);
  const auto expect = [&](auto&& f) {
    std::vector<double> values;
    for (Index r = 0; r < rows; ++r) {
      for (Index c = 0; c < d; ++c) values.push_back(f(a.wide[at(r * stride + c)], b.wide[at(r * stride + c)]));
    }
    return values;
  };
  const auto logistic = [](double v) { return 1 / (1 + std::exp(-v)); };
  const double relative = rounding<T> + 1e-6;
  device.swiglu(x, up, y);
  check_close(downloaded(device, y.data(), rows * d), expect([&](double g, double u) { return g * logistic(g) * u; }),
              relative, 1e-7);
  device.copy(MatrixView<const T, d>(x), y);
  device.add(MatrixView<const T, d>(up), y);
  check_close(downloaded(device, y.data(), rows * d), expect([](double v, double u) { return v + u; }), relative, 0);

  device.template soft_cap<xlstm::SoftCap<30.0>>(MatrixView<float, d>(z.data, rows));
  std::vector<double> capped = z.wide;
  for (double& v : capped) v = 30 * std::tanh(v / 30);
  check_close(downloaded(device, z.data, rows * d), capped, 1e-6, 1e-6);
}

TEST_CASE("element by element, in fp32, rounded once", "[cuda]") {
  check_elementwise<float>();
  check_elementwise<bf16>();
  check_elementwise<f16>();
}

TEST_CASE("copy keeps every bit, whatever the strides", "[cuda]") {
  constexpr Index d = 19, rows = 4;
  Device<bf16> device;
  const Values<bf16> x(device, rows * 25, 1), y(device, rows * 20, 2);
  device.copy<d>({x.data, rows, d, 25}, {y.data, rows, d, 20});
  std::vector<double> expected = y.wide;
  for (Index r = 0; r < rows; ++r) {
    std::copy_n(x.wide.begin() + r * 25, d, expected.begin() + r * 20);
  }
  check_close(downloaded(device, y.data, rows * 20), expected, 0, 0);
}

// ---- the cell ----

/// The cell's outputs and last states in each form, beside the reference's recurrence. `borders`: documents start.
template <class T>
void check_mlstm(Form form, Index sequences, Index length, Index chunk_size, bool borders, bool with_state,
                 double allowed) {
  using Cell = xlstm::MLSTMCell<2, 8, 16>;
  const Index rows = sequences * length;
  Device<T> device;
  const Values<T> q(device, rows * Cell::qk_width, 1), k(device, rows * Cell::qk_width, 2),
      v(device, rows * Cell::v_width, 3);
  const Values<float> igate(device, rows * Cell::heads, 4, 0, 3), fgate(device, rows * Cell::heads, 5, 3, 3);
  std::vector<std::uint8_t> starts(at(rows));
  if (borders) {
    for (const Index r : {Index{1}, length / 2, rows - 1}) starts[at(r)] = 1;
  }
  const Run run{.sequences = sequences,
                .length = length,
                .starts = borders ? starts.data() : nullptr,
                .form = form,
                .chunk_size = chunk_size};

  constexpr Index size = Cell::state_size + 4;  // some other module's values come before the cell's
  std::vector<float*> slots;
  std::vector<double*> wide_slots;
  std::vector<cuda::DeviceMemory<DeviceRuntime>> states;
  const std::shared_ptr<DeviceRuntime> runtime(&device.runtime(), [](DeviceRuntime*) {});
  std::vector<double> wide_states(at(sequences * size));
  for (Index b = 0; b < sequences; ++b) {
    states.emplace_back(runtime, size * static_cast<Index>(sizeof(float)), "a state");
    slots.push_back(static_cast<float*>(states.back().data()));
    wide_slots.push_back(wide_states.data() + b * size);
  }
  const auto h = device.arena().template matrix<T, Cell::v_width>(rows);
  const auto there = device.upload(run);
  const auto state = with_state ? device.upload(StateSlots<float>{slots.data(), 4}, sequences) : StateSlots<float>{};
  typename Device<T>::template MLSTMSaved<Cell> saved;
  device.template mlstm<Cell>(
      there, {{q.data, rows}, {k.data, rows}, {v.data, rows}, {igate.data, rows}, {fgate.data, rows}}, state, h, saved);

  std::vector<double> expected(at(rows * Cell::v_width));
  const MLSTMInput<const double, Cell> in{{q.wide.data(), rows},
                                          {k.wide.data(), rows},
                                          {v.wide.data(), rows},
                                          {igate.wide.data(), rows},
                                          {fgate.wide.data(), rows}};
  xlstm::reference::mlstm_recurrent<Cell, double>(run, in, StateSlots<double>{wide_slots.data(), 4},
                                                  {expected.data(), rows});
  INFO("form " << static_cast<int>(form) << ", " << sequences << " sequences of " << length << ", chunks of "
               << chunk_size << (borders ? ", with borders" : ""));
  CHECK(distance(downloaded(device, h.data(), rows * Cell::v_width), expected) < allowed);
  if (!with_state) return;
  for (Index b = 0; b < sequences; ++b) {
    const std::vector<double> wanted(wide_slots[at(b)], wide_slots[at(b)] + size);
    CHECK(distance(downloaded(device, slots[at(b)], size), wanted) < allowed);
  }
}

TEST_CASE("the cell in every form, in one step, of a batch, with documents inside", "[cuda]") {
  for (const bool borders : {false, true}) {
    check_mlstm<float>(Form::recurrent, 1, 1, 0, false, true, 1e-5);
    check_mlstm<float>(Form::recurrent, 2, 5, 0, borders, true, 1e-5);
    check_mlstm<float>(Form::chunkwise, 2, 21, 16, borders, true, 1e-5);
    check_mlstm<float>(Form::chunkwise, 3, 1, 16, false, true, 1e-5);
    check_mlstm<float>(Form::parallel, 1, 21, 0, borders, true, 1e-5);
    check_mlstm<bf16>(Form::recurrent, 2, 3, 0, borders, true, 0x1p-8);
    check_mlstm<bf16>(Form::chunkwise, 2, 21, 16, borders, true, 0.05);
    check_mlstm<f16>(Form::chunkwise, 1, 21, 16, borders, true, 0x1p-9);
  }
}

TEST_CASE("the cell without states begins from zeros, and keeps none", "[cuda]") {
  check_mlstm<float>(Form::recurrent, 2, 3, 0, false, false, 1e-5);
  check_mlstm<float>(Form::recurrent, 2, 5, 0, true, false, 1e-5);
  check_mlstm<float>(Form::chunkwise, 1, 5, 4, false, false, 1e-5);
}

// ---- memory ----

TEST_CASE("copies of a device's memory are its own", "[cuda]") {
  const auto runtime = std::make_shared<DeviceRuntime>();
  cuda::DeviceMemory<DeviceRuntime> memory(runtime, 8, "a test");
  int values[2] = {1, 2};
  memory.upload(0, values, 8);
  cuda::DeviceMemory<DeviceRuntime> other = memory;
  values[0] = 3;
  other.upload(4, values, 4);
  const auto read = [](const auto& from) {
    std::vector<int> x(2);
    from.download(0, x.data(), 8);
    return x;
  };
  CHECK(read(memory) == std::vector<int>{1, 2});
  CHECK(read(other) == std::vector<int>{1, 3});
  memory = other;
  other.zero();
  CHECK(read(memory) == std::vector<int>{1, 3});
  CHECK(read(other) == std::vector<int>{0, 0});
}

#if !defined(XLSTM_ON_DEVICE)  // of the emulated device alone

using xlstm::testing::EmulatedRuntime;
using xlstm::testing::EmulationError;

TEST_CASE("memory that a device has not is refused with what it was for", "[cuda]") {
  const auto runtime = std::make_shared<EmulatedRuntime>(EmulatedRuntime::Options{.device = 3, .memory = 100000});
  CHECK_THROWS_WITH(cuda::DeviceMemory<EmulatedRuntime>(runtime, 100001, "the weights"),
                    "cuda: device 3 (emulated): too little memory for the weights: 100001 bytes, of which 100000 are "
                    "free");
  Device<float> device(runtime);
  device.arena().allocate<float>(10000);
  CHECK_THROWS_WITH(device.arena().allocate<float>(20000), Contains("too little memory for activations: 80128 bytes"));
  CHECK(device.arena().allocate<float>(1000) != nullptr);
}

TEST_CASE("the host's memory is not the device's", "[cuda]") {
  EmulatedRuntime runtime;
  void* const there = runtime.allocate(16);
  char here[16] = {};
  CHECK_THROWS_AS(runtime.upload(here, here, 16), EmulationError);
  CHECK_THROWS_AS(runtime.download(there, there, 16), EmulationError);
  CHECK_THROWS_AS(runtime.upload(there, here, 17), EmulationError);
#if defined(XLSTM_EMULATION_POISONS)
  CHECK(__asan_region_is_poisoned(there, 16) == there);
  {
    const EmulatedRuntime::Access access(runtime);
    CHECK(__asan_region_is_poisoned(there, 16) == nullptr);
  }
  CHECK(__asan_region_is_poisoned(there, 16) == there);
#endif
  runtime.free(there);
}

TEST_CASE("an arena of a device's memory has records of the host's, and settles", "[cuda]") {
  const auto runtime = std::make_shared<EmulatedRuntime>();
  Device<float> device(runtime);
  const auto work = [&] {
    const xlstm::ArenaScope scope(device.arena());
    const float* x = device.arena().allocate<float>(50000);
    CHECK(runtime->contains(x, 200000));
    CHECK(reinterpret_cast<std::uintptr_t>(x) % 256 == 0);
    int* record = device.arena().records<int>(3);
    CHECK(!runtime->contains(record, 12));
    record[2] = 7;
    CHECK(device.arena().records<int>(1) != record);
    device.arena().allocate<float>(70000);
  };
  work();
  work();
  const Index warm = runtime->allocations();
  const Index host = device.arena().system_allocations();
  for (int i = 0; i < 3; ++i) work();
  CHECK(runtime->allocations() == warm);
  CHECK(device.arena().system_allocations() == host);
}

#endif

}  // namespace
