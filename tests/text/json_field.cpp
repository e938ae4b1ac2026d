// SPDX-License-Identifier: Apache-2.0
#include "xlstm/text/json_field.hpp"

#include <functional>
#include <string>

#include "catch.hpp"

using xlstm::JsonField;

namespace {

std::string message(const std::function<void()>& action) {
  try {
    action();
  } catch (const xlstm::Error& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("a field says in one line what is wrong with it, and where") {
  const auto document = nlohmann::json::parse(R"({"a": {"b": [1, "x", -1, 4294967296, 1.5]}, "n": null, "t": true})");
  const JsonField root(document, "f.json");
  const JsonField b = root.at("a").at("b");
  CHECK(b.size() == 5);
  CHECK(b.element(0).token() == 1);
  CHECK(b.element(1).string() == "x");
  CHECK(root.at("t").boolean());
  CHECK_FALSE(root.find("n"));
  CHECK_FALSE(root.find("nothing"));
  CHECK(root.boolean_or("t", false));
  CHECK_FALSE(root.boolean_or("u", false));

  CHECK(message([&] { root.at("n"); }) == "f.json: n is missing or null");
  CHECK(message([&] { root.at("a").at("c"); }) == "f.json: a.c is missing or null");
  CHECK(message([&] { b.element(0).string(); }) == "f.json: a.b[0] is the number 1, expected a string");
  CHECK(message([&] { b.element(1).boolean(); }) == "f.json: a.b[1] is the string \"x\", expected true or false");
  CHECK(message([&] { b.find("key"); }) == "f.json: a.b is an array, expected an object");
  CHECK(message([&] { root.array(); }) == "f.json: the document is an object, expected an array");
  for (const xlstm::Index i : {1, 2, 3, 4}) {
    CHECK_THROWS_WITH(b.element(i).token(), Contains("expected an integer from 0 to 2147483647"));
  }
}
