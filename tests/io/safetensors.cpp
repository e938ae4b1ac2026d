// SPDX-License-Identifier: Apache-2.0
#include "xlstm/io/safetensors.hpp"

#include <bit>
#include <cstdint>
#include <string>

#include "catch.hpp"
#include "temporary_directory.hpp"

using namespace xlstm;
using namespace xlstm::io;

namespace {

std::string with_length(std::uint64_t length, std::string_view rest) {
  std::string file(8, '\0');
  std::memcpy(file.data(), &length, 8);
  return file + std::string(rest);
}

/// A file with this header and `data` bytes of zeros.
std::string with_header(std::string_view header, std::size_t data) {
  return with_length(header.size(), std::string(header) + std::string(data, '\0'));
}

/// A file with one tensor "x" of these properties and `data` bytes of zeros.
std::string with_tensor(std::string_view properties, std::size_t data) {
  return with_header("{\"x\": {" + std::string(properties) + "}}", data);
}

std::span<const std::byte> bytes_of(std::string_view file) {
  return std::as_bytes(std::span(file.data(), file.size()));
}

std::string header_error(std::string_view file) {
  return error_of([&] { parse_safetensors_header(bytes_of(file), "a.safetensors"); });
}

const std::string two_tensors =
    with_header(R"({"__metadata__": {"format": "pt"}, "b": {"dtype": "F32", "shape": [2, 1], "data_offsets": [4, 12]},)"
                R"( "a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}   )",
                12);

}  // namespace

TEST_CASE("a safetensors header gives each tensor its type, shape and bytes", "[io][safetensors]") {
  const auto header = parse_safetensors_header(bytes_of(two_tensors), "a");
  CHECK(header.metadata.at("format") == "pt");
  REQUIRE(header.tensors.size() == 2);
  const SafetensorsTensor& a = header.tensors.at("a");
  const SafetensorsTensor& b = header.tensors.at("b");
  CHECK(a.type == SafetensorsType::bf16);
  CHECK(b.type == SafetensorsType::f32);
  CHECK(a.shape == std::vector<Index>{2});
  CHECK(b.shape == std::vector<Index>{2, 1});
  CHECK(a.bytes.size() == 4);
  CHECK(b.bytes.data() == a.bytes.data() + 4);
  CHECK(b.bytes.data() + b.bytes.size() == bytes_of(two_tensors).data() + two_tensors.size());
}

TEST_CASE("scalars, empty tensors and a file without tensors are allowed", "[io][safetensors]") {
  CHECK(header_error(with_header("{}", 0)).empty());
  CHECK(header_error(with_tensor(R"("dtype": "F64", "shape": [], "data_offsets": [0, 8])", 8)).empty());
  CHECK(header_error(with_tensor(R"("dtype": "F64", "shape": [3, 0], "data_offsets": [0, 0])", 0)).empty());
  CHECK(header_error(with_header(R"({"x": {"dtype": "U8", "shape": [0], "data_offsets": [4, 4]},)"
                                 R"("y": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}})",
                                 4))
            .empty());
}

TEST_CASE("every type of the format is known with its size", "[io][safetensors]") {
  for (const auto& type : safetensors_types) {
    const std::string properties = "\"dtype\": \"" + std::string(type.name) +
                                   R"(", "shape": [3], "data_offsets": [0, )" + std::to_string(3 * type.size) + "]";
    CHECK(header_error(with_tensor(properties, 3 * type.size)).empty());
  }
  CHECK(name_of(SafetensorsType::u64) == "U64");
  CHECK(name_of(SafetensorsType::f8_e4m3) == "F8_E4M3");
  CHECK(size_of(SafetensorsType::bf16) == 2);
  CHECK(size_of(SafetensorsType::f64) == 8);
  for (const DType type : {DType::f32, DType::bf16, DType::f16}) {
    CHECK(name_of(safetensors_type(type)) == safetensors_name(type));
    CHECK(weight_type(safetensors_type(type)) == type);
  }
  CHECK_FALSE(weight_type(SafetensorsType::f64).has_value());
  CHECK(header_error(with_tensor(R"("dtype": "F12", "shape": [1], "data_offsets": [0, 4])", 4)) ==
        "a.safetensors: tensor \"x\": dtype is \"F12\", expected one of BOOL, U8, I8, F8_E5M2, F8_E4M3, I16, U16, F16, "
        "BF16, I32, U32, F32, F64, I64, U64");
}

TEST_CASE("a file cut off anywhere is an error", "[io][safetensors]") {
  for (std::size_t size = 0; size < two_tensors.size(); ++size) {
    // An exact copy on the heap, so that a sanitizer sees any byte read beyond it.
    const std::vector<char> cut(two_tensors.begin(), two_tensors.begin() + static_cast<std::ptrdiff_t>(size));
    INFO("cut to " << size);
    CHECK_THAT(header_error({cut.data(), cut.size()}), StartsWith("a.safetensors: "));
  }
  CHECK_THAT(header_error(two_tensors + "x"), Contains("cover 12 bytes of data, but the file has 13"));
}

TEST_CASE("header lengths are checked against the format and the file", "[io][safetensors]") {
  CHECK_THAT(header_error(with_length(0, "{}")), Contains("header length is 0"));
  CHECK_THAT(header_error(with_length(3, "{}")), Contains("header length is 3, but only 2 bytes follow"));
  CHECK_THAT(header_error(with_length(100'000'001, "{}")), Contains("expected at most 100000000"));
  CHECK_THAT(header_error(with_length(std::uint64_t{1} << 63, "{}")), Contains("9223372036854775808"));
  CHECK_THAT(header_error(with_length(~std::uint64_t{0}, "{}")), Contains("18446744073709551615"));
  CHECK_THAT(header_error(with_length(~std::uint64_t{0} - 7, "{}")), Contains("expected at most"));
}

TEST_CASE("a header must be one JSON object in UTF-8", "[io][safetensors]") {
  CHECK_THAT(header_error(with_header("[]", 0)), Contains("does not begin with {"));
  CHECK_THAT(header_error(with_header(" {}", 0)), Contains("does not begin with {"));
  CHECK_THAT(header_error(with_header("{} {}", 0)), Contains("not valid JSON"));
  CHECK_THAT(header_error(with_header("{\"\xff\": 1}", 0)), Contains("not valid JSON"));
  CHECK_THAT(header_error(with_header("{\"x\": 1}", 0)), Contains("tensor \"x\" is the number 1, expected an object"));
  CHECK_THAT(header_error(with_header("{\"x\":" + std::string(100000, '['), 0)), Contains("nested deeper"));
  CHECK_THAT(header_error(with_header("{\"__metadata__\": 1}", 0)), Contains("expected an object of strings"));
  CHECK_THAT(header_error(with_header("{\"__metadata__\": {\"k\": 1}}", 0)),
             Contains("__metadata__ \"k\" is the number 1, expected a string"));
  const std::string x = R"("x": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]})";
  CHECK_THAT(header_error(with_header("{" + x + "," + x + "}", 1)), Contains("\"x\" occurs twice"));
}

TEST_CASE("a tensor's entry must be complete and of the right types", "[io][safetensors]") {
  CHECK_THAT(header_error(with_tensor("", 0)), EndsWith("tensor \"x\": dtype is missing"));
  CHECK_THAT(header_error(with_tensor(R"("dtype": "U8", "data_offsets": [0, 1])", 1)), EndsWith("shape is missing"));
  CHECK_THAT(header_error(with_tensor(R"("dtype": "U8", "shape": [1])", 1)), EndsWith("data_offsets is missing"));
  CHECK_THAT(header_error(with_tensor(R"("dtype": "U8", "shape": [1], "data_offsets": [0, 1], "z": 1)", 1)),
             EndsWith("unknown key \"z\""));
  CHECK_THAT(header_error(with_tensor(R"("dtype": 8, "shape": [1], "data_offsets": [0, 1])", 1)),
             EndsWith("dtype is the number 8, expected a string"));
  for (const char* shape : {"1", "\"1\"", "{}", "null"}) {
    CHECK_THAT(header_error(with_tensor(std::string(R"("dtype": "U8", "data_offsets": [0, 1], "shape": )") + shape, 1)),
               EndsWith("expected an array"));
  }
  for (const char* extent : {"-1", "1.0", "\"1\"", "null", "[1]", "1e3", "9223372036854775808", "1e400"}) {
    INFO(extent);
    CHECK_FALSE(
        header_error(with_tensor(R"("dtype": "U8", "data_offsets": [0, 1], "shape": [)" + std::string(extent) + "]", 1))
            .empty());
  }
}

TEST_CASE("a shape whose size overflows is an error", "[io][safetensors]") {
  for (const char* shape :
       {"4294967296, 4294967296", "9223372036854775807, 2", "9223372036854775807", "3037000500, 3037000500",
        "9223372036854775807, 9223372036854775807, 0", "65536, 65536, 65536, 65536", "2, 2305843009213693952"}) {
    INFO(shape);
    CHECK_THAT(header_error(
                   with_tensor(R"("dtype": "F32", "data_offsets": [0, 0], "shape": [)" + std::string(shape) + "]", 0)),
               EndsWith("is too large"));
  }
}

TEST_CASE("data offsets must lie in the file and fit shape and type", "[io][safetensors]") {
  const auto offsets = [](const std::string& text) {
    return header_error(with_tensor(R"("dtype": "F16", "shape": [2, 2], "data_offsets": )" + text, 8));
  };
  CHECK(offsets("[0, 8]").empty());
  CHECK_THAT(offsets("[8, 0]"), EndsWith("data_offsets [8, 0] are reversed"));
  CHECK_THAT(offsets("[0, 7]"), EndsWith("span 7 bytes, expected 8 for F16 (2, 2)"));
  CHECK_THAT(offsets("[1, 8]"), EndsWith("span 7 bytes, expected 8 for F16 (2, 2)"));
  CHECK_THAT(offsets("[1, 9]"), Contains("reach beyond the file, which has 8 bytes of data"));
  CHECK_THAT(offsets("[9223372036854775799, 9223372036854775807]"), Contains("reach beyond the file"));
  CHECK_THAT(offsets("[0]"), EndsWith("data_offsets has 1 entries, expected 2"));
  CHECK_THAT(offsets("[0, 8, 8]"), EndsWith("data_offsets has 3 entries, expected 2"));
  CHECK_THAT(offsets("[-8, 0]"), Contains("the number -8"));
  CHECK_THAT(offsets("[0, 18446744073709551615]"), Contains("18446744073709551615"));
  CHECK_THAT(offsets("8"), EndsWith("expected an array"));
}

TEST_CASE("tensors must cover the data without holes and overlaps", "[io][safetensors]") {
  const auto pair = [](const std::string& first, const std::string& second, std::size_t data) {
    const std::string head = R"({"a": {"dtype": "U8", "shape": [4], "data_offsets": )";
    return header_error(
        with_header(head + first + R"(}, "b": {"dtype": "U8", "shape": [4], "data_offsets": )" + second + "}}", data));
  };
  CHECK(pair("[0, 4]", "[4, 8]", 8).empty());
  CHECK(pair("[4, 8]", "[0, 4]", 8).empty());
  CHECK_THAT(pair("[0, 4]", "[3, 7]", 8),
             EndsWith("tensor \"b\" begins at 3 and overlaps tensor \"a\", which ends at 4"));
  CHECK_THAT(pair("[0, 4]", "[0, 4]", 4), Contains("overlaps"));
  CHECK_THAT(pair("[0, 4]", "[5, 9]", 9), EndsWith("no tensor covers the data from 4 to 5, where tensor \"b\" begins"));
  CHECK_THAT(pair("[1, 5]", "[5, 9]", 9), Contains("no tensor covers the data from 0 to 1"));
  CHECK_THAT(pair("[0, 4]", "[4, 8]", 9), EndsWith("the tensors cover 8 bytes of data, but the file has 9"));
}

TEST_CASE("names from the file cannot break a message", "[io][safetensors]") {
  const std::string text = header_error(with_header("{\"evil\\nname\\u0000\": {}}", 0));
  CHECK_THAT(text, Contains("tensor \"evil\\x0aname\\x00\""));
}

TEST_CASE("a safetensors file reads as numbers", "[io][safetensors]") {
  const TemporaryDirectory directory;
  std::string file = with_header(R"({"d": {"dtype": "F64", "shape": [2], "data_offsets": [0, 16]},)"
                                 R"("i": {"dtype": "I64", "shape": [2], "data_offsets": [16, 32]},)"
                                 R"("h": {"dtype": "F16", "shape": [1], "data_offsets": [32, 34]},)"
                                 R"("b": {"dtype": "BF16", "shape": [1], "data_offsets": [34, 36]},)"
                                 R"("u": {"dtype": "U8", "shape": [1, 1], "data_offsets": [36, 37]},)"
                                 R"("t": {"dtype": "BOOL", "shape": [1], "data_offsets": [37, 38]}})",
                                 0);
  const double doubles[2] = {0.1, -2.0};
  const std::int64_t integers[2] = {-7, std::int64_t{1} << 40};
  file.append(reinterpret_cast<const char*>(doubles), 16);
  file.append(reinterpret_cast<const char*>(integers), 16);
  for (const std::uint16_t bits : {f16(1.5F).bits, bf16(-3.0F).bits}) {
    file.append(reinterpret_cast<const char*>(&bits), 2);
  }
  file += "\xff\x01";
  write_plainly(directory / "a.safetensors", file);
  const SafetensorsFile opened(directory / "a.safetensors");
  const std::string prefix = (directory / "a.safetensors").native() + ": tensor ";

  CHECK(opened.read<double>("d") == std::vector<double>{0.1, -2.0});
  CHECK(opened.read<float>("d") == std::vector<float>{0.1F, -2.0F});
  CHECK(opened.read<float>("h") == std::vector<float>{1.5F});
  CHECK(opened.read<double>("b") == std::vector<double>{-3.0});
  CHECK(opened.read<std::int64_t>("i") == std::vector<std::int64_t>{-7, std::int64_t{1} << 40});
  CHECK(opened.read<int>("u") == std::vector<int>{255});
  CHECK(error_of([&] { opened.read<Token>("i"); }) ==
        prefix + "\"i\" holds 1099511627776 at 1, expected -2147483648 to 2147483647");
  CHECK(error_of([&] { opened.read<std::int8_t>("u"); }) == prefix + "\"u\" holds 255 at 0, expected -128 to 127");
  CHECK(error_of([&] { opened.read<float>("i"); }) == prefix + "\"i\" is I64, expected F64, F32, BF16 or F16");
  CHECK(error_of([&] { opened.read<int>("d"); }) == prefix + "\"d\" is F64, expected an integer type");
  CHECK(error_of([&] { opened.read<int>("t"); }) == prefix + "\"t\" is BOOL, expected a number type");
  CHECK(error_of([&] { opened.read<int>("q"); }) == prefix + "\"q\" is missing");
  CHECK(opened.find("q") == nullptr);
}

TEST_CASE("files of the published tools are read", "[io][safetensors]") {
  const SafetensorsFile file(XLSTM_TEST_DATA "/cell/documents.safetensors");
  CHECK(file.metadata().contains("soft_cap"));
  const auto& q = file.at("q");
  REQUIRE(q.shape.size() == 4);
  CHECK(file.read<double>("q").size() == static_cast<std::size_t>(q.shape[0] * q.shape[1] * q.shape[2] * q.shape[3]));
  const auto starts = file.read<int>("starts");
  CHECK(std::count(starts.begin(), starts.end(), 1) > 0);
  CHECK(std::count(starts.begin(), starts.end(), 0) + std::count(starts.begin(), starts.end(), 1) ==
        static_cast<std::ptrdiff_t>(starts.size()));
}
