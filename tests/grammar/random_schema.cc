#include "random_schema.h"

#include <algorithm>
#include <string>
#include <vector>

namespace longshelf::grammar::testing {
namespace {

using Json = nlohmann::ordered_json;

class Writer {
 public:
  Writer(std::mt19937_64& random, int budget) : random_(random), budget_(budget) {}

  Json Schema() {
    if (--budget_ <= 0 || Below(12) == 0) return Leaf();
    Json schema = Json::object();
    const char* const types[] = {"object", "object", "array", "string", "integer", "number"};
    if (Below(8) > 0) schema["type"] = types[Below(6)];
    if (Below(10) == 0) schema["type"] = Json::array({types[Below(6)], "null"});
    const std::string type = schema.contains("type") && schema["type"].is_string() ? schema["type"] : "";
    if (type.empty() || type == "object") Object(schema);
    if (type.empty() || type == "array") Array(schema);
    if (type.empty() || type == "string") String(schema);
    if (type.empty() || type == "integer" || type == "number") Number(schema);
    if (Below(4) == 0) Combination(schema);
    return schema;
  }

 private:
  size_t Below(size_t n) { return static_cast<size_t>(random_() % n); }
  std::string Name() { return std::vector<std::string>{"a", "b", "ab", "x", "é\"\\"}[Below(5)]; }
  std::string Pattern() { return std::vector<std::string>{"^a", "b$", "x", "^[a-z]{2,4}$"}[Below(4)]; }
  std::string Text() { return std::vector<std::string>{"", "a", "ab", "axb", "é", "\n\"\\\x01"}[Below(6)]; }

  Json Value(int depth = 0) {
    switch (Below(depth > 1 ? 5 : 7)) {
      case 0:
        return nullptr;
      case 1:
        return Below(2) == 0;
      case 2:
        return static_cast<int>(Below(9)) - 4;
      case 3:
        return (static_cast<int>(Below(33)) - 16) / 4.0;
      case 4:
        return Text();
      case 5: {
        Json list = Json::array();
        for (size_t n = Below(3); n > 0; --n) list.push_back(Value(depth + 1));
        return list;
      }
      default: {
        Json object = Json::object();
        for (size_t n = Below(3); n > 0; --n) object[Name()] = Value(depth + 1);
        return object;
      }
    }
  }

  Json Leaf() {
    switch (Below(7)) {
      case 0:
        return true;
      case 1:
        return Json{{"const", Value()}};
      case 2: {
        Json values = Json::array();
        for (size_t n = 1 + Below(4); n > 0; --n) values.push_back(Value());
        return Json{{"enum", values}};
      }
      case 3:
        return Json{{"$ref", Below(2) == 0 ? "#/$defs/d0" : "#/$defs/d1"}};
      case 4:
        return Json{{"type", "boolean"}};
      default:
        return Json{{"type", Below(2) == 0 ? "string" : "integer"}};
    }
  }

  void Object(Json& schema) {
    for (size_t n = Below(4); n > 0; --n) schema["properties"][Name()] = Schema();
    if (Below(4) == 0) schema["patternProperties"][Pattern()] = Schema();
    if (Below(2) == 0) schema["additionalProperties"] = Below(3) == 0 ? Schema() : Json(false);
    for (size_t n = Below(3); n > 0; --n) schema["required"].push_back(Name());
    if (Below(8) == 0) schema["propertyNames"] = Json{{"maxLength", 1 + Below(3)}};
    if (Below(8) == 0) schema["minProperties"] = Below(3);
    if (Below(8) == 0) schema["maxProperties"] = Below(4);
  }

  void Array(Json& schema) {
    if (Below(3) == 0) {
      schema["prefixItems"] = Json::array();
      for (size_t n = 1 + Below(2); n > 0; --n) schema["prefixItems"].push_back(Schema());
    }
    if (Below(2) == 0) schema["items"] = Below(4) == 0 ? Json(false) : Schema();
    if (Below(3) == 0) schema["minItems"] = Below(3);
    if (Below(3) == 0) schema["maxItems"] = Below(4);
  }

  void String(Json& schema) {
    if (Below(3) == 0) schema["minLength"] = Below(4);
    if (Below(3) == 0) schema["maxLength"] = Below(6);
    if (Below(3) == 0) schema["pattern"] = Pattern();
  }

  void Number(Json& schema) {
    if (Below(3) == 0) schema["minimum"] = (static_cast<int>(Below(40)) - 20) / 4.0;
    if (Below(3) == 0) schema["maximum"] = static_cast<int>(Below(200)) - 20;
    if (Below(5) == 0) schema["exclusiveMinimum"] = static_cast<int>(Below(10)) - 8;
    if (Below(5) == 0) schema["multipleOf"] = std::vector<double>{0.25, 0.5, 2, 3, 10}[Below(5)];
  }

  void Combination(Json& schema) {
    const auto list = [this] {
      Json schemas = Json::array();
      for (size_t n = 1 + Below(3); n > 0; --n) schemas.push_back(Schema());
      return schemas;
    };
    switch (Below(5)) {
      case 0:
        schema["allOf"] = list();
        break;
      case 1:
        schema["anyOf"] = list();
        break;
      case 2:
        schema["oneOf"] = list();
        break;
      case 3:
        schema["not"] = Schema();
        break;
      default:
        schema["if"] = Schema();
        schema["then"] = Schema();
        if (Below(2) == 0) schema["else"] = Schema();
    }
  }

  std::mt19937_64& random_;
  int budget_;
};

}  // namespace

Json RandomSchema(std::mt19937_64& random, int budget) {
  Writer writer(random, budget);
  Json schema = writer.Schema();
  if (!schema.is_object()) schema = Json{{"type", "object"}};
  Writer small(random, 4);
  schema["$defs"]["d0"] = small.Schema();
  schema["$defs"]["d1"] = small.Schema();
  return schema;
}

}  // namespace longshelf::grammar::testing
