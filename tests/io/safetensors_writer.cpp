// SPDX-License-Identifier: Apache-2.0
#include "xlstm/io/safetensors_writer.hpp"

#include <array>

#include "catch.hpp"
#include "temporary_directory.hpp"

using namespace xlstm;
using namespace xlstm::io;

namespace {

const std::vector<TensorDeclaration> declarations = {
    {"a", SafetensorsType::f32, {2, 2}}, {"empty", SafetensorsType::f32, {0, 7}}, {"b", SafetensorsType::u8, {3}}};
constexpr std::array<float, 4> a_values = {1.0F, 2.0F, 3.0F, 4.0F};
constexpr std::array<std::uint8_t, 3> b_values = {5, 6, 7};

template <class T, std::size_t N>
std::span<const T> span_of(const std::array<T, N>& values) {
  return values;
}

}  // namespace

TEST_CASE("what the writer writes, the reader reads", "[io][safetensors]") {
  const TemporaryDirectory directory;
  SafetensorsWriter writer(directory / "x.safetensors", declarations);
  const auto a_bytes = std::as_bytes(span_of(a_values));
  for (std::size_t i = 0; i < a_bytes.size(); i += 5) {
    writer.write("a", a_bytes.subspan(i, std::min<std::size_t>(5, a_bytes.size() - i)));
  }
  writer.write("empty", std::span<const std::byte>());
  writer.write("b", span_of(b_values));
  CHECK_FALSE(std::filesystem::exists(directory / "x.safetensors"));
  writer.finish();
  CHECK(count_files(directory.path()) == 1);

  const SafetensorsFile file(directory / "x.safetensors");
  CHECK(file.metadata().at("format") == "pt");
  CHECK(file.tensors().size() == 3);
  CHECK(file.at("a").shape == std::vector<Index>{2, 2});
  CHECK(file.at("empty").shape == std::vector<Index>{0, 7});
  CHECK(file.read<float>("a") == std::vector<float>(a_values.begin(), a_values.end()));
  CHECK(file.read<int>("b") == std::vector<int>{5, 6, 7});
}

TEST_CASE("floats are converted to the type of their tensor", "[io][safetensors]") {
  const TemporaryDirectory directory;
  std::vector<float> values(10000);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i) * 0.37F - 100.0F;
  const auto count = static_cast<Index>(values.size());
  SafetensorsWriter writer(directory / "x.safetensors", {{"a", SafetensorsType::f32, {count}},
                                                         {"b", SafetensorsType::bf16, {count}},
                                                         {"c", SafetensorsType::f16, {count}},
                                                         {"d", SafetensorsType::u8, {1}}});
  for (const char* name : {"a", "b", "c"}) writer.write_floats(name, values);
  CHECK_THAT(error_of([&] { writer.write_floats("d", values); }), EndsWith("is U8, expected F32, BF16 or F16"));
  CHECK_FALSE(writer.complete());
  writer.write("d", span_of(std::array<std::uint8_t, 1>{1}));
  CHECK(writer.complete());
  writer.finish();
  const SafetensorsFile file(directory / "x.safetensors");
  CHECK(file.read<float>("a") == values);
  const auto b = file.read<float>("b");
  const auto c = file.read<float>("c");
  for (std::size_t i = 0; i < values.size(); i += 97) {
    CHECK(b[i] == static_cast<float>(bf16(values[i])));
    CHECK(c[i] == static_cast<float>(f16(values[i])));
  }
}

TEST_CASE("the data begins at a multiple of 64 bytes", "[io][safetensors]") {
  for (std::size_t length = 1; length < 130; ++length) {
    const std::vector<TensorDeclaration> one = {{std::string(length, 'n'), SafetensorsType::u8, {1}}};
    const std::string header = safetensors_header(one, "a", {});
    CHECK(header.size() % 64 == 0);
    const std::string file = header + "x";
    const auto parsed = parse_safetensors_header(std::as_bytes(std::span(file.data(), file.size())), "a");
    CHECK(parsed.tensors.contains(one.front().name));
  }
}

TEST_CASE("names and metadata are escaped", "[io][safetensors]") {
  const std::vector<TensorDeclaration> one = {{"a\"\\\n\xc3\xbc", SafetensorsType::u8, {0}}};
  const std::string file = safetensors_header(one, "a", {{"k\"", "v\n"}});
  const auto parsed = parse_safetensors_header(std::as_bytes(std::span(file.data(), file.size())), "a");
  CHECK(parsed.tensors.contains("a\"\\\n\xc3\xbc"));
  CHECK(parsed.metadata.at("k\"") == "v\n");
}

TEST_CASE("declarations that make no file are errors", "[io][safetensors]") {
  const auto header = [](std::vector<TensorDeclaration> tensors) {
    return error_of([&] { safetensors_header(tensors, "f", {}); });
  };
  const auto u8 = SafetensorsType::u8;
  CHECK(header({{"x", u8, {1}}, {"x", u8, {2}}}) == "f: tensor \"x\" is declared twice");
  CHECK(header({{"__metadata__", u8, {1}}}) == "f: tensor \"__metadata__\" is declared twice");
  CHECK(header({{"\xff", u8, {1}}}) == "f: name \"\\xff\" is not UTF-8");
  CHECK(header({{"x", u8, {-1}}}) == "f: tensor \"x\": shape (-1) is too large or negative");
  CHECK_THAT(header({{"x", u8, {PTRDIFF_MAX, 2}}}), Contains("is too large"));
  CHECK_THAT(header({{"x", u8, {PTRDIFF_MAX}}, {"y", u8, {1}}}), Contains("the file is too large"));
  CHECK_THAT(header({{"x", u8, {1}}, {"y", SafetensorsType::f32, {1}}}),
             EndsWith("tensor \"y\" of type F32 would be misaligned; declare wider types first"));
}

TEST_CASE("data in the wrong order or amount is an error and leaves no file", "[io][safetensors]") {
  const TemporaryDirectory directory;
  write_plainly(directory / "x.safetensors", "old");
  const auto attempt = [&](auto&& action) {
    return error_of([&] {
      SafetensorsWriter writer(directory / "x.safetensors", declarations);
      action(writer);
    });
  };
  const auto bytes = std::as_bytes(span_of(a_values));
  CHECK_THAT(attempt([&](auto& w) { w.write("b", span_of(b_values)); }),
             EndsWith("data for tensor \"b\", expected 16 more bytes of tensor \"a\""));
  CHECK_THAT(attempt([&](auto& w) {
               w.write("a", bytes.first(10));
               w.write("a", bytes.first(10));
             }),
             EndsWith("10 bytes for tensor \"a\", expected at most 6"));
  CHECK_THAT(attempt([&](auto& w) {
               w.write("a", bytes);
               w.finish();
             }),
             EndsWith("3 bytes of tensor \"b\" are missing"));
  CHECK_THAT(attempt([&](auto& w) {
               w.write("a", bytes);
               w.write("b", span_of(b_values));
               w.write("b", span_of(b_values));
             }),
             EndsWith("data for tensor \"b\" after the last tensor"));
  CHECK(read_plainly(directory / "x.safetensors") == "old");
  CHECK(count_files(directory.path()) == 1);
}
