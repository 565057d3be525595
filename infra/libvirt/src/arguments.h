// Arguments of a call, by the type that the C function takes: taken from JavaScript on its thread (the constructor, which
// throws TypeError), completed in the call's own thread (`load`), handed to the C function (`get`).
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>

#include "connection.h"
#include "handles.h"
#include "parameters.h"

class Arguments {
 public:
  explicit Arguments(const Napi::CallbackInfo& info) : info_(info) {}
  Napi::Value take() { return info_[next_++]; }
  [[noreturn]] void wrong(const std::string& want) const {
    throw Napi::TypeError::New(info_.Env(), "argument " + std::to_string(next_) + " must be " + want);
  }

 private:
  const Napi::CallbackInfo& info_;
  size_t next_ = 0;
};

template <class T> struct In {
  static_assert(std::is_integral_v<T>);
  T value;
  explicit In(Arguments& from) {
    auto given = from.take();
    double number = given.IsNumber() ? given.As<Napi::Number>().DoubleValue() : NAN;
    if (!(number == std::trunc(number) && number >= double(std::numeric_limits<T>::min()) &&
          number <= std::min(double(std::numeric_limits<T>::max()), 9007199254740991.0)))
      from.wrong(std::is_signed_v<T> ? "an integer" : "a whole number");
    value = static_cast<T>(number);
  }
  bool load(virConnectPtr) { return true; }
  T get() { return value; }
};

template <> struct In<const char*> {
  Maybe<std::string> value;
  explicit In(Arguments& from) {
    auto given = from.take();
    if (given.IsNull()) return;
    if (!given.IsString()) from.wrong("a string or null");
    value = given.As<Napi::String>().Utf8Value();
    // C would end the text here without a word.
    if (value->find('\0') != std::string::npos) from.wrong("a string without a null character");
  }
  bool load(virConnectPtr) { return true; }
  const char* get() { return value ? value->c_str() : nullptr; }
};

template <> struct In<const Parameters&> {
  Parameters value;
  explicit In(Arguments& from) {
    auto given = from.take();
    if (!given.IsObject()) from.wrong("an object");
    for (const auto& [key, item] : given.As<Napi::Object>()) {
      std::string name = key.ToString();
      Napi::Value one = item;
      if (one.IsString()) value.add(name.c_str(), one.As<Napi::String>().Utf8Value());
      else if (one.IsBoolean()) value.add(name.c_str(), one.As<Napi::Boolean>().Value());
      else if (one.IsNumber()) value.add(name.c_str(), one.As<Napi::Number>().Int32Value());
      else if (!one.IsUndefined()) from.wrong("an object of strings, numbers and booleans");
    }
  }
  bool load(virConnectPtr) { return true; }
  const Parameters& get() { return value; }
};

template <> struct In<virConnectPtr> {  // the connection that the method was called on
  virConnectPtr value = nullptr;
  explicit In(Arguments&) {}
  bool load(virConnectPtr connection) {
    value = connection;  // null once closed: libvirt itself then says "invalid connection pointer"
    return true;
  }
  virConnectPtr get() { return value; }
};

template <class P> struct HandleIn {
  std::string uuid;
  Owned<P> object;
  explicit HandleIn(Arguments& from) {
    auto given = from.take();
    if (!given.IsString()) from.wrong("a UUID");
    uuid = given.As<Napi::String>().Utf8Value();
  }
  bool load(virConnectPtr connection) {
    object.reset(Handle<P>::lookup(connection, uuid.c_str()));
    return object != nullptr;
  }
  P get() { return object.get(); }
};
template <> struct In<virDomainPtr> : HandleIn<virDomainPtr> {
  using HandleIn::HandleIn;
};
template <> struct In<virNetworkPtr> : HandleIn<virNetworkPtr> {
  using HandleIn::HandleIn;
};
