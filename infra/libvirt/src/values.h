// Plain results on their way to JavaScript: made in any thread, turned into JavaScript's values on its own.
#pragma once
#include <napi.h>

#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

using Scalar = std::variant<bool, double, std::string>;
using Record = std::map<std::string, Scalar>;

// What a call gives that has no single C result; nothing means that libvirt has set an error.
template <class T> using Maybe = std::optional<T>;

inline Napi::Value toJs(Napi::Env env, bool value) { return Napi::Boolean::New(env, value); }
inline Napi::Value toJs(Napi::Env env, double value) { return Napi::Number::New(env, value); }
inline Napi::Value toJs(Napi::Env env, const std::string& value) { return Napi::String::New(env, value); }
inline Napi::Value toJs(Napi::Env env, const Scalar& value) {
  return std::visit([env](const auto& scalar) { return toJs(env, scalar); }, value);
}
inline Napi::Value toJs(Napi::Env env, const Record& value) {
  auto object = Napi::Object::New(env);
  for (const auto& [key, item] : value) object.Set(key, toJs(env, item));
  return object;
}
template <class T> Napi::Value toJs(Napi::Env env, const std::vector<T>& value) {
  auto array = Napi::Array::New(env, value.size());
  for (size_t i = 0; i < value.size(); i++) array.Set(i, toJs(env, value[i]));
  return array;
}
