// libvirt's typed parameters: a list of names with values, used where a call may learn new options later.
#pragma once
#include <libvirt/libvirt.h>

#include <utility>

#include "values.h"

struct Parameters {
  virTypedParameterPtr list = nullptr;
  int count = 0, room = 0;

  Parameters() = default;
  Parameters(Parameters&& other) noexcept
      : list(std::exchange(other.list, nullptr)), count(std::exchange(other.count, 0)), room(std::exchange(other.room, 0)) {}
  Parameters& operator=(Parameters&&) = delete;
  ~Parameters() { virTypedParamsFree(list, count); }

  void add(const char* name, const std::string& value) { virTypedParamsAddString(&list, &count, &room, name, value.c_str()); }
  void add(const char* name, bool value) { virTypedParamsAddBoolean(&list, &count, &room, name, value); }
  void add(const char* name, int value) { virTypedParamsAddInt(&list, &count, &room, name, value); }

  // 64-bit counters become doubles: exact up to 2^53, which is 9 PB of memory or 100 days in nanoseconds.
  Record record() const {
    Record all;
    for (int i = 0; i < count; i++) {
      const auto& [field, type, value] = list[i];
      switch (type) {
        case VIR_TYPED_PARAM_INT: all[field] = double(value.i); break;
        case VIR_TYPED_PARAM_UINT: all[field] = double(value.ui); break;
        case VIR_TYPED_PARAM_LLONG: all[field] = double(value.l); break;
        case VIR_TYPED_PARAM_ULLONG: all[field] = double(value.ul); break;
        case VIR_TYPED_PARAM_DOUBLE: all[field] = value.d; break;
        case VIR_TYPED_PARAM_BOOLEAN: all[field] = value.b != 0; break;
        case VIR_TYPED_PARAM_STRING: all[field] = std::string(value.s); break;
      }
    }
    return all;
  }
};
