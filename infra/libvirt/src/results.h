// Results of a call, by the type that the C function gives: taken in the call's own thread (`take`, false if libvirt has
// set an error), handed to JavaScript on its thread (`js`).
#pragma once
#include <cstdlib>

#include "handles.h"

template <class T> struct Out;

template <> struct Out<int> {
  int value = -1;
  bool take(int result) { return (value = result) >= 0; }
  Napi::Value js(Napi::Env env) { return toJs(env, double(value)); }
};

template <> struct Out<char*> {
  std::string value;
  bool take(char* result) {
    if (result == nullptr) return false;
    value = result;
    std::free(result);
    return true;
  }
  Napi::Value js(Napi::Env env) { return toJs(env, value); }
};

template <class T> struct Out<T*> {  // a domain or a network
  Record value;
  bool take(T* result) {
    if (result == nullptr) return false;
    value = describe(Owned<T*>(result).get());
    return true;
  }
  Napi::Value js(Napi::Env env) { return toJs(env, value); }
};

template <class T> struct Out<Maybe<T>> {
  Maybe<T> value;
  bool take(Maybe<T>&& result) { return (value = std::move(result)).has_value(); }
  Napi::Value js(Napi::Env env) { return toJs(env, *value); }
};
