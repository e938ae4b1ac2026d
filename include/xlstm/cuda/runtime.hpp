// SPDX-License-Identifier: Apache-2.0
// A GPU for cuda::Backend: memory and streams of the CUDA runtime, matrix products of cuBLASLt (its documentation:
// cublasLtMatmul). Empty but in a translation unit that nvcc compiles, or clang as CUDA; links cudart and cublasLt.
#pragma once

#include "xlstm/cuda/backend.hpp"
#include "xlstm/cuda/device_runtime.hpp"
#include "xlstm/cuda/launch.hpp"

#if defined(__CUDACC__)

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <array>
#include <cub/device/device_radix_sort.cuh>
#include <map>
#include <mutex>
#include <string>
#include <type_traits>
#include <utility>

namespace xlstm::cuda {

/// Device `device` of those that the process sees (CUDA_VISIBLE_DEVICES).
class Runtime {
 public:
  struct Options {
    int device = 0;
  };
  class Queue;

  Runtime() : Runtime(Options{}) {}
  /// Error if there is no such device, or it is older than the kernels.
  explicit Runtime(const Options& options) : device_(options.device) {
    int count = 0;
    const cudaError_t status = cudaGetDeviceCount(&count);
    if (status != cudaSuccess || count == 0) {
      fail("cuda: there is no device", status != cudaSuccess ? std::string(": ") + cudaGetErrorString(status) : "");
    }
    if (device_ < 0 || device_ >= count) fail("cuda: there is no device ", device_, ", expected 0 to ", count - 1);
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, device_), "cudaGetDeviceProperties");
    name_ = "device " + std::to_string(device_) + " (" + properties.name + ")";
    if (properties.major < 8) {
      fail("cuda: ", name_, ": compute capability ", properties.major, ".", properties.minor,
           ", expected 8.0 or later");
    }
    compute_capability_ = 10 * properties.major + properties.minor;
    activate();
  }
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  const std::string& name() const { return name_; }
  /// 90 for 9.0.
  int compute_capability() const { return compute_capability_; }
  /// Makes it the device of this thread.
  void activate() const { check(cudaSetDevice(device_), "cudaSetDevice"); }

  void* allocate(Index bytes) noexcept {
    void* memory = nullptr;
    const std::lock_guard alone(memory_);
    // Never null for nothing, which CUDA gives as null.
    const auto size = static_cast<std::size_t>(bytes > 0 ? bytes : 1);
    if (cudaSetDevice(device_) == cudaSuccess && cudaMalloc(&memory, size) == cudaSuccess) return memory;
    static_cast<void>(cudaGetLastError());  // the next launch would report it as its own
    return nullptr;
  }
  /// Waits for all that may still use it.
  void free(void* memory) noexcept {
    const std::lock_guard alone(memory_);
    static_cast<void>(cudaSetDevice(device_));
    static_cast<void>(cudaDeviceSynchronize());
    static_cast<void>(cudaFree(memory));
  }
  Index free_bytes() const {
    std::size_t unused = 0;
    std::size_t total = 0;
    activate();
    check(cudaMemGetInfo(&unused, &total), "cudaMemGetInfo");
    return static_cast<Index>(unused);
  }

  void upload(void* to, const void* from, Index bytes) { move(to, from, bytes, cudaMemcpyHostToDevice); }
  void download(void* to, const void* from, Index bytes) { move(to, from, bytes, cudaMemcpyDeviceToHost); }
  void copy(void* to, const void* from, Index bytes) { move(to, from, bytes, cudaMemcpyDeviceToDevice); }
  void zero(void* to, Index bytes) {
    activate();
    check(cudaMemset(to, 0, static_cast<std::size_t>(bytes)), "cudaMemset");
    check(cudaStreamSynchronize(nullptr), "cudaMemset");
  }

 private:
  void move(void* to, const void* from, Index bytes, cudaMemcpyKind kind) const {
    activate();
    check(cudaMemcpy(to, from, static_cast<std::size_t>(bytes), kind), "cudaMemcpy");
    check(cudaStreamSynchronize(nullptr), "cudaMemcpy");  // a copy inside the device returns before it is done
  }

  int device_;
  int compute_capability_ = 0;
  std::string name_;
  // Held by who changes the device's memory, and by who records: freeing waits for the device, which must not be while
  // a stream is captured.
  std::recursive_mutex memory_;
};

namespace detail {

/// Throws xlstm::Error if a call of cuBLASLt's failed.
inline void check_blas(cublasStatus_t status, const Runtime& runtime, const std::string& call) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  fail("cuda: ", runtime.name(), ": ", call, ": ", cublasLtGetStatusString(status));
}

template <class T>
inline constexpr cudaDataType_t blas_type = std::is_same_v<T, float>  ? CUDA_R_32F
                                            : std::is_same_v<T, bf16> ? CUDA_R_16BF
                                                                      : CUDA_R_16F;

/// A description that cuBLASLt has made, and destroys.
template <class Handle, cublasStatus_t (*Destroy)(Handle)>
class BlasObject {
 public:
  BlasObject() = default;
  BlasObject(BlasObject&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  BlasObject& operator=(BlasObject&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~BlasObject() {
    if (handle_ != nullptr) Destroy(handle_);
  }
  Handle get() const { return handle_; }
  Handle* address() { return &handle_; }

 private:
  Handle handle_ = nullptr;
};
using BlasLibrary = BlasObject<cublasLtHandle_t, cublasLtDestroy>;
using BlasProduct = BlasObject<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using BlasLayout = BlasObject<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using BlasPreference = BlasObject<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

}  // namespace detail

/// A stream, and matrix products in it. The algorithm for a product is looked for once for each shape.
class Runtime::Queue {
 public:
  /// What cuBLASLt may use beside the matrices, in bytes; its documentation recommends it for sm_90 and later.
  static constexpr Index workspace_bytes = Index{32} << 20;

  explicit Queue(Runtime& runtime) : runtime_(runtime), stream_(runtime) {
    detail::check_blas(cublasLtCreate(library_.address()), runtime_, "cublasLtCreate");
    workspace_.memory = runtime_.allocate(workspace_bytes);
    if (workspace_.memory == nullptr) refuse_memory(runtime_, workspace_bytes, "cuBLASLt's workspace");
  }
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  void activate() const { runtime_.activate(); }
  template <class K>
  void launch(GridSize grid, const K& kernel) const {
    Stream(stream_.stream).launch(grid, kernel);
  }
  // From memory that is not page-locked, an asynchronous copy returns when it has been read.
  void upload(void* to, const void* from, Index bytes) const { move(to, from, bytes, cudaMemcpyHostToDevice); }
  void download(void* to, const void* from, Index bytes) const {
    move(to, from, bytes, cudaMemcpyDeviceToHost);
    synchronize();
  }
  void copy(void* to, const void* from, Index bytes) const { move(to, from, bytes, cudaMemcpyDeviceToDevice); }
  void synchronize() const { check(cudaStreamSynchronize(stream_.stream), "cudaStreamSynchronize"); }

  // Templates, so that nobody who does not sort compiles CUB's kernels.
  template <class Key = float, class Value = std::uint32_t>
  Index sort_bytes(Index count) const {
    std::size_t bytes = 0;
    const Key* const keys = nullptr;
    const Value* const values = nullptr;
    sort(nullptr, bytes, keys, static_cast<Key*>(nullptr), values, static_cast<Value*>(nullptr), count);
    return static_cast<Index>(bytes);
  }
  template <class Key, class Value>
  void sort_descending(void* memory, Index bytes, const Key* keys, Key* sorted_keys, const Value* values,
                       Value* sorted_values, Index count) const {
    auto size = static_cast<std::size_t>(bytes);
    sort(memory, size, keys, sorted_keys, values, sorted_values, count);
  }

  /// A CUDA graph, ready to launch.
  class Recording {
   public:
    explicit Recording(cudaGraph_t graph) { check(cudaGraphInstantiate(&graph_, graph, 0), "cudaGraphInstantiate"); }
    Recording(Recording&& other) noexcept : graph_(std::exchange(other.graph_, nullptr)) {}
    Recording& operator=(Recording&& other) noexcept {
      std::swap(graph_, other.graph_);
      return *this;
    }
    ~Recording() {
      if (graph_ != nullptr) cudaGraphExecDestroy(graph_);
    }
    cudaGraphExec_t get() const { return graph_; }

   private:
    cudaGraphExec_t graph_ = nullptr;
  };
  template <class Work>
  Recording record(Work&& work) {
    const std::lock_guard alone(runtime_.memory_);
    Capture capture(stream_.stream);
    work();
    capture.end();
    return Recording(capture.graph);
  }
  void replay(const Recording& recording) const {
    check(cudaGraphLaunch(recording.get(), stream_.stream), "cudaGraphLaunch");
  }

  /// D (+)= A B + bias.
  template <class T, class D>
  void multiply(const MatrixProduct& product, const T* a, const T* b, D* d, const D* bias) {
    if (product.m == 0 || product.n == 0) return;
    const Key key{product.m,
                  product.n,
                  product.k,
                  product.a_stride,
                  product.b_stride,
                  product.d_stride,
                  (product.a_transposed ? 1 : 0) + (product.b_transposed ? 2 : 0) + (product.add ? 4 : 0) +
                      (bias != nullptr ? 8 : 0),
                  detail::blas_type<T>,
                  detail::blas_type<D>,
                  alignment_of(a),
                  alignment_of(b),
                  alignment_of(d)};
    const std::string what = "product of " + std::to_string(product.m) + " × " + std::to_string(product.k) + " and " +
                             std::to_string(product.k) + " × " + std::to_string(product.n);
    Planned& planned = plans_[key];
    if (planned.product.get() == nullptr) plan<T, D>(planned, key, column_major(product), bias != nullptr, what);
    const void* const bias_address = bias;
    if (bias != nullptr) set(planned.product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias_address, what);
    const float alpha = 1;
    const float beta = product.add ? 1.0F : 0.0F;
    detail::check_blas(cublasLtMatmul(library_.get(), planned.product.get(), &alpha, b, planned.first.get(), a,
                                      planned.second.get(), &beta, d, planned.result.get(), d, planned.result.get(),
                                      &planned.algorithm, workspace_.memory, workspace_bytes, stream_.stream),
                       runtime_, "cublasLtMatmul: " + what);
  }

 private:
  using Key = std::array<Index, 12>;
  struct Planned {
    detail::BlasProduct product;
    detail::BlasLayout first, second, result;
    cublasLtMatmulAlgo_t algorithm{};
  };
  struct OwnedStream {
    explicit OwnedStream(const Runtime& runtime) {
      runtime.activate();
      check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    }
    OwnedStream(const OwnedStream&) = delete;
    ~OwnedStream() { cudaStreamDestroy(stream); }
    cudaStream_t stream = nullptr;
  };
  /// What goes into the stream while it lives becomes a graph.
  struct Capture {
    explicit Capture(cudaStream_t s) : stream(s) {
      check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
    }
    Capture(const Capture&) = delete;
    ~Capture() {
      if (open) static_cast<void>(cudaStreamEndCapture(stream, &graph));  // something was thrown
      if (graph != nullptr) cudaGraphDestroy(graph);
      if (open) static_cast<void>(cudaGetLastError());
    }
    void end() {
      open = false;
      check(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
    }
    cudaStream_t stream;
    cudaGraph_t graph = nullptr;
    bool open = true;
  };
  struct Workspace {
    explicit Workspace(Runtime& owner) : runtime(owner) {}
    Workspace(const Workspace&) = delete;
    ~Workspace() {
      if (memory != nullptr) runtime.free(memory);
    }
    Runtime& runtime;
    void* memory = nullptr;
  };

  template <class Key, class Value>
  void sort(void* memory, std::size_t& bytes, const Key* keys, Key* sorted_keys, const Value* values,
            Value* sorted_values, Index count) const {
    check(cub::DeviceRadixSort::SortPairsDescending(memory, bytes, keys, sorted_keys, values, sorted_values,
                                                    static_cast<int>(count), 0, static_cast<int>(sizeof(Key) * 8),
                                                    stream_.stream),
          "cub::DeviceRadixSort::SortPairsDescending");
  }

  void move(void* to, const void* from, Index bytes, cudaMemcpyKind kind) const {
    check(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), kind, stream_.stream), "cudaMemcpyAsync");
  }

  template <class Value>
  void set(detail::BlasProduct& product, cublasLtMatmulDescAttributes_t attribute, const Value& value,
           const std::string& what) const {
    detail::check_blas(cublasLtMatmulDescSetAttribute(product.get(), attribute, &value, sizeof(value)), runtime_,
                       "cublasLtMatmulDescSetAttribute: " + what);
  }

  template <class T, class D>
  void plan(Planned& planned, const Key& key, const ColumnMajorProduct& product, bool with_bias,
            const std::string& what) {
    const auto check_step = [&](cublasStatus_t status, const char* call) {
      detail::check_blas(status, runtime_, call + (": " + what));
    };
    const auto layout = [&](detail::BlasLayout& to, const ColumnMajorMatrix& matrix, cudaDataType_t type) {
      check_step(cublasLtMatrixLayoutCreate(to.address(), type, static_cast<std::uint64_t>(matrix.rows),
                                            static_cast<std::uint64_t>(matrix.cols), matrix.stride),
                 "cublasLtMatrixLayoutCreate");
    };
    Planned made;
    check_step(cublasLtMatmulDescCreate(made.product.address(), CUBLAS_COMPUTE_32F, CUDA_R_32F),
               "cublasLtMatmulDescCreate");
    const auto operation = [](const ColumnMajorMatrix& matrix) {
      return matrix.transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    };
    set(made.product, CUBLASLT_MATMUL_DESC_TRANSA, operation(product.first), what);
    set(made.product, CUBLASLT_MATMUL_DESC_TRANSB, operation(product.second), what);
    if (with_bias) {
      set(made.product, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS, what);
      set(made.product, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, detail::blas_type<D>, what);
    }
    layout(made.first, product.first, detail::blas_type<T>);
    layout(made.second, product.second, detail::blas_type<T>);
    layout(made.result, product.result, detail::blas_type<D>);

    detail::BlasPreference preference;
    check_step(cublasLtMatmulPreferenceCreate(preference.address()), "cublasLtMatmulPreferenceCreate");
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
      check_step(cublasLtMatmulPreferenceSetAttribute(preference.get(), attribute, &value, sizeof(value)),
                 "cublasLtMatmulPreferenceSetAttribute");
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<std::size_t>(workspace_bytes));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, static_cast<std::uint32_t>(key[10]));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, static_cast<std::uint32_t>(key[9]));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, static_cast<std::uint32_t>(key[11]));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, static_cast<std::uint32_t>(key[11]));
    cublasLtMatmulHeuristicResult_t best{};
    int found = 0;
    check_step(cublasLtMatmulAlgoGetHeuristic(library_.get(), made.product.get(), made.first.get(), made.second.get(),
                                              made.result.get(), made.result.get(), preference.get(), 1, &best, &found),
               "cublasLtMatmulAlgoGetHeuristic");
    if (found == 0) fail("cuda: ", runtime_.name(), ": cuBLASLt has no algorithm for a ", what);
    made.algorithm = best.algo;
    planned = std::move(made);
  }

  Runtime& runtime_;
  OwnedStream stream_;
  Workspace workspace_{runtime_};
  detail::BlasLibrary library_;
  std::map<Key, Planned> plans_;
};
static_assert(DeviceRuntime<Runtime>);

}  // namespace xlstm::cuda

#endif
