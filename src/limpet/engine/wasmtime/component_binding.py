"""The C functions of Wasmtime's component model that Limpet calls, bound as `binding` binds the others.

A module of its own, because only a process that meets a component needs it. Source of every
signature: the C API's headers `wasmtime/component/*.h`, named above each group.
"""

from __future__ import annotations

import ctypes
from ctypes import c_bool, c_char_p, c_size_t, c_uint8, c_uint32, c_uint64, c_void_p

from limpet.engine.wasmtime.binding import bind, held, released


class Instance(ctypes.Structure):
    """`wasmtime_component_instance_t`."""

    _fields_ = (("store", c_uint64), ("index", c_uint32))


class Function(ctypes.Structure):
    """`wasmtime_component_func_t`: two private numbers, and room for one more of another release."""

    _fields_ = (("of", c_uint64 * 4),)


class ValueType(ctypes.Structure):
    """`wasmtime_component_valtype_t`."""

    _fields_ = (("kind", c_uint8), ("of", c_void_p))


class Item(ctypes.Structure):
    """`wasmtime_component_item_t`: a kind, and a union of pointers and one `ValueType`."""

    _fields_ = (("kind", c_uint8), ("of", c_void_p), ("more", c_void_p))


ITEM_INSTANCE, ITEM_FUNCTION, ITEM_RESOURCE, ITEM_TYPE = 1, 3, 4, 6

# wasmtime/component/linker.h: callback(data, context, type, arguments, count, results, count),
# destructor(data, context, rep).
HOST_FUNCTION = ctypes.CFUNCTYPE(
    c_size_t, c_size_t, c_size_t, c_size_t, c_size_t, c_size_t, c_size_t, c_size_t
)
DESTRUCTOR = ctypes.CFUNCTYPE(c_size_t, c_size_t, c_size_t, c_uint32)

# wasmtime/component/component.h
component_new = bind(
    released, "wasmtime_component_new", c_void_p, c_void_p, c_char_p, c_size_t, c_void_p
)
component_serialize = bind(released, "wasmtime_component_serialize", c_void_p, c_void_p, c_void_p)
component_deserialize = bind(
    released, "wasmtime_component_deserialize", c_void_p, c_void_p, c_void_p, c_size_t, c_void_p
)
component_deserialize_file = bind(
    released, "wasmtime_component_deserialize_file", c_void_p, c_void_p, c_char_p, c_void_p
)
component_delete = bind(released, "wasmtime_component_delete", None, c_void_p)
component_type = bind(held, "wasmtime_component_type", c_void_p, c_void_p)
component_get_export_index = bind(
    held,
    "wasmtime_component_get_export_index",
    c_void_p,
    c_void_p,
    c_void_p,
    c_char_p,
    c_size_t,
)
export_index_delete = bind(held, "wasmtime_component_export_index_delete", None, c_void_p)

# wasmtime/component/types/component.h, instance.h, func.h, resource.h
type_delete = bind(held, "wasmtime_component_type_delete", None, c_void_p)
type_import_count = bind(held, "wasmtime_component_type_import_count", c_size_t, c_void_p, c_void_p)
type_export_count = bind(held, "wasmtime_component_type_export_count", c_size_t, c_void_p, c_void_p)
_NTH = (c_void_p, c_void_p, c_size_t, c_void_p, c_void_p, c_void_p)
type_import_nth = bind(held, "wasmtime_component_type_import_nth", c_bool, *_NTH)
type_export_nth = bind(held, "wasmtime_component_type_export_nth", c_bool, *_NTH)
instance_type_export_count = bind(
    held, "wasmtime_component_instance_type_export_count", c_size_t, c_void_p, c_void_p
)
instance_type_export_nth = bind(held, "wasmtime_component_instance_type_export_nth", c_bool, *_NTH)
extern_type = bind(held, "wasmtime_component_extern_type", None, c_void_p, c_void_p)
extern_delete = bind(held, "wasmtime_component_extern_delete", None, c_void_p)
item_delete = bind(held, "wasmtime_component_item_delete", None, c_void_p)
func_type_async = bind(held, "wasmtime_component_func_type_async", c_bool, c_void_p)
func_type_param_count = bind(held, "wasmtime_component_func_type_param_count", c_size_t, c_void_p)
func_type_param_nth = bind(
    held,
    "wasmtime_component_func_type_param_nth",
    c_bool,
    c_void_p,
    c_size_t,
    c_void_p,
    c_void_p,
    c_void_p,
)
func_type_result = bind(held, "wasmtime_component_func_type_result", c_bool, c_void_p, c_void_p)
resource_type_new_host = bind(held, "wasmtime_component_resource_type_new_host", c_void_p, c_uint32)
resource_type_equal = bind(
    held, "wasmtime_component_resource_type_equal", c_bool, c_void_p, c_void_p
)
resource_type_clone = bind(held, "wasmtime_component_resource_type_clone", c_void_p, c_void_p)
resource_type_delete = bind(held, "wasmtime_component_resource_type_delete", None, c_void_p)

# wasmtime/component/types/val.h
valtype_delete = bind(held, "wasmtime_component_valtype_delete", None, c_void_p)
list_type_element = bind(held, "wasmtime_component_list_type_element", None, c_void_p, c_void_p)
option_type_of = bind(held, "wasmtime_component_option_type_ty", None, c_void_p, c_void_p)
result_type_ok = bind(held, "wasmtime_component_result_type_ok", c_bool, c_void_p, c_void_p)
result_type_error = bind(held, "wasmtime_component_result_type_err", c_bool, c_void_p, c_void_p)
tuple_type_count = bind(held, "wasmtime_component_tuple_type_types_count", c_size_t, c_void_p)
tuple_type_nth = bind(
    held, "wasmtime_component_tuple_type_types_nth", c_bool, c_void_p, c_size_t, c_void_p
)
record_type_count = bind(held, "wasmtime_component_record_type_field_count", c_size_t, c_void_p)
record_type_nth = bind(
    held,
    "wasmtime_component_record_type_field_nth",
    c_bool,
    c_void_p,
    c_size_t,
    c_void_p,
    c_void_p,
    c_void_p,
)
variant_type_count = bind(held, "wasmtime_component_variant_type_case_count", c_size_t, c_void_p)
variant_type_nth = bind(
    held,
    "wasmtime_component_variant_type_case_nth",
    c_bool,
    c_void_p,
    c_size_t,
    c_void_p,
    c_void_p,
    c_void_p,
    c_void_p,
)
_NAME = (c_void_p, c_size_t, c_void_p, c_void_p)
enum_type_count = bind(held, "wasmtime_component_enum_type_names_count", c_size_t, c_void_p)
enum_type_nth = bind(held, "wasmtime_component_enum_type_names_nth", c_bool, *_NAME)
flags_type_count = bind(held, "wasmtime_component_flags_type_names_count", c_size_t, c_void_p)
flags_type_nth = bind(held, "wasmtime_component_flags_type_names_nth", c_bool, *_NAME)

# wasmtime/component/linker.h
linker_new = bind(held, "wasmtime_component_linker_new", c_void_p, c_void_p)
linker_delete = bind(held, "wasmtime_component_linker_delete", None, c_void_p)
linker_root = bind(held, "wasmtime_component_linker_root", c_void_p, c_void_p)
linker_instance_add_instance = bind(
    held,
    "wasmtime_component_linker_instance_add_instance",
    c_void_p,
    c_void_p,
    c_char_p,
    c_size_t,
    c_void_p,
)
linker_instance_add_func = bind(
    held,
    "wasmtime_component_linker_instance_add_func",
    c_void_p,
    c_void_p,
    c_char_p,
    c_size_t,
    HOST_FUNCTION,
    c_void_p,
    c_void_p,
)
linker_instance_add_resource = bind(
    held,
    "wasmtime_component_linker_instance_add_resource",
    c_void_p,
    c_void_p,
    c_char_p,
    c_size_t,
    c_void_p,
    DESTRUCTOR,
    c_void_p,
    c_void_p,
)
linker_instance_delete = bind(held, "wasmtime_component_linker_instance_delete", None, c_void_p)
linker_instantiate = bind(
    released,
    "wasmtime_component_linker_instantiate",
    c_void_p,
    c_void_p,
    c_void_p,
    c_void_p,
    c_void_p,
)

# wasmtime/component/instance.h, func.h
instance_get_func = bind(
    held,
    "wasmtime_component_instance_get_func",
    c_bool,
    c_void_p,
    c_void_p,
    c_void_p,
    c_void_p,
)
func_call = bind(
    released,
    "wasmtime_component_func_call",
    c_void_p,
    c_void_p,
    c_void_p,
    c_void_p,
    c_size_t,
    c_void_p,
    c_size_t,
)

# wasmtime/component/val.h
val_new = bind(held, "wasmtime_component_val_new", c_void_p, c_void_p)
val_delete = bind(held, "wasmtime_component_val_delete", None, c_void_p)
vallist_new_uninit = bind(held, "wasmtime_component_vallist_new_uninit", None, c_void_p, c_size_t)
valrecord_new_uninit = bind(
    held, "wasmtime_component_valrecord_new_uninit", None, c_void_p, c_size_t
)
valtuple_new_uninit = bind(held, "wasmtime_component_valtuple_new_uninit", None, c_void_p, c_size_t)
valflags_new_uninit = bind(held, "wasmtime_component_valflags_new_uninit", None, c_void_p, c_size_t)
byte_vec_new = bind(held, "wasm_byte_vec_new", None, c_void_p, c_size_t, c_char_p)
resource_any_to_host = bind(
    held,
    "wasmtime_component_resource_any_to_host",
    c_void_p,
    c_void_p,
    c_void_p,
    c_void_p,
)
resource_host_new = bind(
    held, "wasmtime_component_resource_host_new", c_void_p, c_bool, c_uint32, c_uint32
)
resource_host_rep = bind(held, "wasmtime_component_resource_host_rep", c_uint32, c_void_p)
resource_host_delete = bind(held, "wasmtime_component_resource_host_delete", None, c_void_p)
resource_host_to_any = bind(
    held,
    "wasmtime_component_resource_host_to_any",
    c_void_p,
    c_void_p,
    c_void_p,
    c_void_p,
)
