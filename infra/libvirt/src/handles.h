// Objects of libvirt. JavaScript knows them by their UUID; the C pointer is looked up and freed within one call, so it
// can neither leak nor outlive its connection, and a UUID stays valid when the connection is opened anew.
#pragma once
#include <libvirt/libvirt.h>

#include <memory>
#include <string>
#include <type_traits>

#include "values.h"

template <class P> struct Handle;
template <> struct Handle<virDomainPtr> {
  static constexpr auto lookup = virDomainLookupByUUIDString;
  static constexpr auto free = virDomainFree;
  static constexpr auto name = virDomainGetName;
  static constexpr auto uuid = virDomainGetUUIDString;
};
template <> struct Handle<virNetworkPtr> {
  static constexpr auto lookup = virNetworkLookupByUUIDString;
  static constexpr auto free = virNetworkFree;
  static constexpr auto name = virNetworkGetName;
  static constexpr auto uuid = virNetworkGetUUIDString;
};

template <class P> struct Free {
  void operator()(P object) const { Handle<P>::free(object); }
};
template <class P> using Owned = std::unique_ptr<std::remove_pointer_t<P>, Free<P>>;

template <class P> Record describe(P object) {
  char uuid[VIR_UUID_STRING_BUFLEN] = "";
  Handle<P>::uuid(object, uuid);
  return {{"uuid", std::string(uuid)}, {"name", std::string(Handle<P>::name(object))}};
}
