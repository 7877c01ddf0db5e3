// Plays a recorded step: a list of PyTorch's own operations on memory that stays.
//
// A player is put together from Python, once, by the operations of the library
// handful_player below; it is run through the C function handful_play, as many steps a
// call as there are batches. It computes nothing itself but masks of dropout: each other
// entry is an operation of the dispatcher with arguments that are there, called below
// autograd.

#include <ATen/ATen.h>
#include <ATen/ScalarOps.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/util/Exception.h>
#include <torch/library.h>

#include <cstdint>
#include <cstring>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "bernoulli.h"

namespace {

using c10::IValue;
using torch::jit::Stack;

// A list of tensors, some of which are others in each step.
struct List {
  int64_t position;
  std::vector<at::Tensor> tensors;
  std::vector<int64_t> slots;  // -1 where the tensor is there
  bool is_optional;
};

struct Call {
  c10::OperatorHandle op;
  Stack arguments;
  std::vector<std::pair<int64_t, int64_t>> open;  // position, slot
  std::vector<List> lists;
  std::vector<int64_t> makes;  // a slot for each result, -1 for none
  std::vector<int64_t> ends;   // slots that nobody needs from here on
  bool is_mask = false;        // whether it fills a mask from the global generator
};

struct Log {
  at::Tensor tensor;
  int64_t slot;
};

// Where a step ends whose numbers are not finite, and what it has changed by then.
struct Guard {
  int64_t at = -1;  // the call before which it stands
  List values;      // the loss, its weight, the gradients
  std::vector<at::Tensor> buffers, kept;
  bool is_random = false;
  at::Tensor generator;
};

struct Player {
  Guard guard;
  std::vector<Call> calls;
  std::vector<IValue> slots;
  std::vector<at::Tensor> inputs;
  std::vector<int64_t> rates;  // slots of numbers that are given for each step
  std::vector<Log> logs;
  Stack stack;
};

// Whether masks are drawn here: they were compared with PyTorch's.
bool draws_masks = false;

Player& player_of(int64_t handle) { return *reinterpret_cast<Player*>(handle); }

int64_t make_player() { return reinterpret_cast<int64_t>(new Player()); }

void drop_player(int64_t handle) { delete &player_of(handle); }

void need_slot(Player& player, int64_t slot) {
  if (slot >= static_cast<int64_t>(player.slots.size())) {
    player.slots.resize(slot + 1);
  }
}

// Takes arguments apart that Python has written down one kind after the other.
struct Reader {
  at::TensorList tensors;
  at::IntArrayRef ints;
  at::ArrayRef<double> floats;
  const std::vector<std::string>& strings;
  size_t tensor = 0, whole = 0, real = 0, text = 0;

  int64_t next_int() { return ints.at(whole++); }
  at::Tensor next_tensor() { return tensors.at(tensor++); }

  std::vector<int64_t> next_ints() {
    std::vector<int64_t> found(next_int());
    for (auto& value : found) value = next_int();
    return found;
  }
};

List read_list(Reader& reader, int64_t position, bool is_optional) {
  List list{position, {}, reader.next_ints(), is_optional};
  for (auto slot : list.slots) {
    // -1: a tensor that is there; -2: none.
    list.tensors.push_back(slot == -1 ? reader.next_tensor() : at::Tensor());
  }
  return list;
}

IValue make_list(const List& list, const std::vector<IValue>& slots) {
  auto at_index = [&](size_t i) {
    return list.slots[i] >= 0 ? slots[list.slots[i]].toTensor() : list.tensors[i];
  };
  if (list.is_optional) {
    c10::List<std::optional<at::Tensor>> made;
    for (size_t i = 0; i < list.slots.size(); ++i) {
      auto tensor = at_index(i);
      made.push_back(tensor.defined() ? std::optional<at::Tensor>(tensor) : std::nullopt);
    }
    return IValue(std::move(made));
  }
  c10::List<at::Tensor> made;
  made.reserve(list.slots.size());
  for (size_t i = 0; i < list.slots.size(); ++i) made.push_back(at_index(i));
  return IValue(std::move(made));
}

bool holds_slot(const List& list) {
  for (auto slot : list.slots) {
    if (slot >= 0) return true;
  }
  return false;
}

// A number in a tensor's place, which leaves the dtype of others alone.
IValue wrap_number(const at::Scalar& number) {
  auto tensor = at::scalar_to_tensor(number);
  tensor.unsafeGetTensorImpl()->set_wrapped_number(true);
  return IValue(tensor);
}

IValue read_value(char kind, Reader& reader, const c10::Argument& argument) {
  switch (kind) {
    case '.':
      TORCH_CHECK(argument.default_value().has_value(), "an argument is missing");
      return *argument.default_value();
    case 'n': return IValue();
    case 't': return IValue(reader.next_tensor());
    case 'i': return IValue(reader.next_int());
    case 'b': return IValue(reader.next_int() != 0);
    case 'd': return IValue(reader.floats.at(reader.real++));
    case 'w': return wrap_number(reader.next_int());
    case 'W': return wrap_number(reader.floats.at(reader.real++));
    case 's': return IValue(reader.strings.at(reader.text++));
    case 'v': return IValue(c10::Device(reader.strings.at(reader.text++)));
    case 'y': return IValue(static_cast<int64_t>(reader.next_tensor().scalar_type()));
    case 'I': return IValue(c10::List<int64_t>(c10::IntArrayRef(reader.next_ints())));
    case 'B': {
      c10::List<bool> made;
      for (auto value : reader.next_ints()) made.push_back(value != 0);
      return IValue(std::move(made));
    }
    case 'D': {
      c10::List<double> made;
      for (int64_t left = reader.next_int(); left > 0; --left) {
        made.push_back(reader.floats.at(reader.real++));
      }
      return IValue(std::move(made));
    }
    default: TORCH_CHECK(false, "unknown kind of argument: ", kind);
  }
}

void add_call(int64_t handle, const std::string& name, const std::string& overload,
              const std::string& kinds, at::TensorList tensors, at::IntArrayRef ints,
              at::ArrayRef<double> floats, const std::vector<std::string>& strings,
              at::IntArrayRef makes, at::IntArrayRef ends) {
  auto& player = player_of(handle);
  Call call{c10::Dispatcher::singleton().findSchemaOrThrow(name.c_str(), overload.c_str()),
            {}, {}, {}, makes.vec(), ends.vec()};
  const auto& arguments = call.op.schema().arguments();
  TORCH_CHECK(arguments.size() == kinds.size(), "another number of arguments");
  Reader reader{tensors, ints, floats, strings};
  for (size_t i = 0; i < kinds.size(); ++i) {
    if (kinds[i] == 'u') {
      call.open.emplace_back(i, reader.next_int());
      need_slot(player, call.open.back().second);
      call.arguments.emplace_back();
    } else if (kinds[i] == 'T' || kinds[i] == 'O') {
      auto list = read_list(reader, i, kinds[i] == 'O');
      for (auto slot : list.slots) need_slot(player, slot);
      if (holds_slot(list)) {
        call.arguments.emplace_back();
        call.lists.push_back(std::move(list));
      } else {
        call.arguments.push_back(make_list(list, player.slots));
      }
    } else {
      call.arguments.push_back(read_value(kinds[i], reader, arguments[i]));
    }
  }
  for (auto slot : makes) need_slot(player, slot);
  for (auto slot : ends) need_slot(player, slot);
  call.is_mask = draws_masks && name == "aten::bernoulli_" && overload == "float";
  player.calls.push_back(std::move(call));
}

void add_guard(int64_t handle, at::TensorList tensors, at::IntArrayRef slots,
               at::TensorList buffers, bool is_random) {
  auto& player = player_of(handle);
  auto& guard = player.guard;
  guard.at = static_cast<int64_t>(player.calls.size());
  guard.is_random = is_random;
  guard.values = List{0, {}, slots.vec(), true};
  size_t next = 0;
  for (auto slot : slots) {
    need_slot(player, slot);
    guard.values.tensors.push_back(slot == -1 ? tensors[next++] : at::Tensor());
  }
  for (const auto& buffer : buffers) {
    guard.buffers.push_back(buffer);
    guard.kept.push_back(at::empty_like(buffer));
  }
}

void copy_memory(const std::vector<at::Tensor>& to, const std::vector<at::Tensor>& from) {
  for (size_t i = 0; i < to.size(); ++i) {
    std::memcpy(to[i].data_ptr(), from[i].const_data_ptr(), from[i].nbytes());
  }
}

void keep_state(Guard& guard) {
  copy_memory(guard.kept, guard.buffers);
  if (guard.is_random) {
    auto generator = at::globalContext().defaultGenerator(c10::DeviceType::CPU);
    std::lock_guard<std::mutex> lock(generator.mutex());
    guard.generator = generator.get_state();
  }
}

void put_back_state(Guard& guard) {
  copy_memory(guard.buffers, guard.kept);
  if (guard.is_random) {
    auto generator = at::globalContext().defaultGenerator(c10::DeviceType::CPU);
    std::lock_guard<std::mutex> lock(generator.mutex());
    generator.set_state(guard.generator);
  }
}

// Whether a number has all bits of its exponent set: then it is infinite or none.
template <typename Bits>
bool has_exponent(const void* memory, int64_t count, Bits mask) {
  const auto* bits = static_cast<const Bits*>(memory);
  Bits found = 0;
  for (int64_t i = 0; i < count; ++i) found |= (bits[i] & mask) == mask;
  return found != 0;
}

bool is_finite(const at::Tensor& tensor) {
  if (tensor.is_non_overlapping_and_dense()) {
    const auto* memory = tensor.const_data_ptr();
    if (tensor.scalar_type() == at::kFloat) {
      return !has_exponent<uint32_t>(memory, tensor.numel(), 0x7f800000u);
    }
    if (tensor.scalar_type() == at::kDouble) {
      return !has_exponent<uint64_t>(memory, tensor.numel(), 0x7ff0000000000000ull);
    }
  }
  return tensor.isfinite().all().item<bool>();
}

bool allows(const Player& player) {
  const auto& values = player.guard.values;
  auto at_index = [&](size_t i) {
    const auto slot = values.slots[i];
    return slot >= 0 ? player.slots[slot].toTensor() : values.tensors[i];
  };
  if (!is_finite(at_index(0))) {
    const auto weight = at_index(1);  // the mean of nothing is no fault
    if (!weight.defined() || weight.item<double>() != 0) return false;
  }
  for (size_t i = 2; i < values.slots.size(); ++i) {
    if (!is_finite(at_index(i))) return false;
  }
  return true;
}

void add_input(int64_t handle, const at::Tensor& base) {
  player_of(handle).inputs.push_back(base);
}

void add_rate(int64_t handle, int64_t slot) {
  need_slot(player_of(handle), slot);
  player_of(handle).rates.push_back(slot);
}

void add_log(int64_t handle, at::TensorList tensors, int64_t slot) {
  player_of(handle).logs.push_back({slot < 0 ? tensors[0] : at::Tensor(), slot});
}

at::Tensor read_slot(int64_t handle, int64_t slot) {
  return player_of(handle).slots.at(slot).toTensor();
}

void clear_slots(int64_t handle) {
  for (auto& slot : player_of(handle).slots) slot = IValue();
}

void run_call(Player& player, const Call& call) {
  auto& stack = player.stack;
  stack.assign(call.arguments.begin(), call.arguments.end());
  for (const auto& [position, slot] : call.open) stack[position] = player.slots[slot];
  for (const auto& list : call.lists) {
    stack[list.position] = make_list(list, player.slots);
  }
  const bool is_drawn = call.is_mask && stack[2].isNone() &&
                        handful::fill_mask(stack[0].toTensor(), stack[1].toDouble());
  if (is_drawn) {
    stack.resize(1);  // what the operation returns
  } else {
    call.op.callBoxed(&stack);
  }
  if (!call.makes.empty()) {
    if (stack.size() == 1 && stack[0].isTensorList()) {
      const auto list = stack[0].toTensorVector();
      for (size_t i = 0; i < call.makes.size(); ++i) {
        if (call.makes[i] >= 0) player.slots[call.makes[i]] = list.at(i);
      }
    } else {
      for (size_t i = 0; i < call.makes.size(); ++i) {
        if (call.makes[i] >= 0) player.slots[call.makes[i]] = std::move(stack.at(i));
      }
    }
  }
  for (auto slot : call.ends) player.slots[slot] = IValue();
}

// The memory of an input is that of the batch: nothing is copied.
void point_at(const at::Tensor& base, void* memory) {
  base.storage().unsafeGetStorageImpl()->set_data_ptr_noswap(
      at::DataPtr(memory, c10::Device(c10::DeviceType::CPU)));
}

// Returns whether the step was done.
bool run_step(Player& player, void* const* inputs, const double* rates, char* const* logs,
              int64_t step) {
  for (size_t i = 0; i < player.inputs.size(); ++i) point_at(player.inputs[i], inputs[i]);
  for (size_t i = 0; i < player.rates.size(); ++i) player.slots[player.rates[i]] = rates[i];
  auto& guard = player.guard;
  if (guard.at >= 0) keep_state(guard);
  const auto count = static_cast<int64_t>(player.calls.size());
  for (int64_t i = 0; i < count; ++i) {
    if (i == guard.at && !allows(player)) {
      put_back_state(guard);
      return false;
    }
    run_call(player, player.calls[i]);
  }
  for (size_t i = 0; i < player.logs.size(); ++i) {
    const auto& log = player.logs[i];
    const auto tensor = log.slot < 0 ? log.tensor : player.slots[log.slot].toTensor();
    const auto size = tensor.element_size();
    std::memcpy(logs[i] + step * size, tensor.const_data_ptr(), size);
  }
  return true;
}

thread_local std::string error_text;
thread_local int64_t error_kind = 0;

void note_error(int64_t kind, const char* text) {
  error_kind = kind;
  error_text = text;
}

}  // namespace

// Returns how many steps were done; fewer than asked for where one failed.
extern "C" int64_t handful_play(void* handle, int64_t steps, void* const* inputs,
                                const double* rates, char* const* logs) {
  auto& player = *static_cast<Player*>(handle);
  at::AutoDispatchBelowADInplaceOrView below;
  int64_t step = 0;
  note_error(0, "");
  try {
    for (; step < steps; ++step) {
      if (!run_step(player, inputs + step * player.inputs.size(),
                    rates + step * player.rates.size(), logs, step)) {
        note_error(-1, "");
        break;
      }
    }
  } catch (const c10::IndexError& error) {
    note_error(1, error.what_without_backtrace());
  } catch (const c10::ValueError& error) {
    note_error(2, error.what_without_backtrace());
  } catch (const c10::TypeError& error) {
    note_error(3, error.what_without_backtrace());
  } catch (const c10::NotImplementedError& error) {
    note_error(4, error.what_without_backtrace());
  } catch (const c10::Error& error) {
    note_error(0, error.what_without_backtrace());
  } catch (const std::exception& error) {
    note_error(0, error.what());
  }
  player.stack.clear();
  return step;
}

extern "C" const char* handful_error() { return error_text.c_str(); }

// -1 where a guard ended the last call; else the place of the error among RuntimeError, IndexError, ValueError, TypeError and
// NotImplementedError.
extern "C" int64_t handful_error_kind() { return error_kind; }

TORCH_LIBRARY(handful_player, m) {
  m.def("make() -> int", &make_player);
  m.def("drop(int player) -> ()", &drop_player);
  m.def(
      "add(int player, str name, str overload, str kinds, Tensor[] tensors, int[] ints, "
      "float[] floats, str[] strings, int[] makes, int[] ends) -> ()",
      [](int64_t player, std::string name, std::string overload, std::string kinds,
         at::TensorList tensors, at::IntArrayRef ints, at::ArrayRef<double> floats,
         std::vector<std::string> strings, at::IntArrayRef makes, at::IntArrayRef ends) {
        add_call(player, name, overload, kinds, tensors, ints, floats, strings, makes,
                 ends);
      });
  m.def(
      "add_guard(int player, Tensor[] values, int[] slots, Tensor[] buffers, "
      "bool is_random) -> ()",
      &add_guard);
  m.def("add_input(int player, Tensor base) -> ()", &add_input);
  m.def("add_rate(int player, int slot) -> ()", &add_rate);
  m.def("add_log(int player, Tensor[] tensor, int slot) -> ()", &add_log);
  m.def("slot(int player, int slot) -> Tensor", &read_slot);
  m.def("clear(int player) -> ()", &clear_slots);
  m.def("fill_mask(Tensor mask, float p) -> bool", &handful::fill_mask);
  m.def("draw_masks(bool yes) -> ()", [](bool yes) { draws_masks = yes; });
}
