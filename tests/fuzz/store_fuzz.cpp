// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>
#include <cstring>
#include <vector>

#include <sinq/store.hpp>

// The same bytes as a safetensors file, with everything that can be asked of one, and as a config.json. An error must
// be a FormatError (what can be opened is not at stake: there is no file); whatever is accepted must be what it claims.

namespace {

void require(bool ok) {
  if (!ok) std::abort();
}

/// The copy on the heap ends where the input ends, so that the sanitizer sees a read of one byte more.
void read_file(std::span<const std::byte> input) {
  const sinq::store::Checkpoint model(sinq::store::File(input, "fuzz"));
  std::size_t covered = 0;
  for (const sinq::store::Tensor* t : model.tensors()) {
    covered += t->data.size();
    require(static_cast<std::uint64_t>(t->elements()) * static_cast<std::uint64_t>(bits_of(t->type)) ==
            8 * t->data.size());
    require(model.find(t->name) == t);
    if (weight_type(t->type)) require(to_floats(*t).size() == static_cast<std::size_t>(t->elements()));
    if (is_matrix(*t) && t->elements() > 0) {
      float last = 0;
      const sinq::WeightView w = weights(*t);
      w.load(w.rows - 1, w.cols - 1, 1, &last);
    }
    if (is_matrix_stack(*t) && t->elements() > 0) (void)weights(*t, t->shape[0] - 1);
  }
  require(covered <= input.size());
  const sinq::store::Contents contents = sinq::store::contents(model);
  for (const auto& matrix : contents.quantized) {
    const sinq::QuantizedMatrix q = sinq::store::read_quantized(model, matrix.name);
    validate(q);  // throws InvalidArgument, which nobody catches here, where the reader let something through
    require(q.bytes() == matrix.bytes && q.format == matrix.format);
    if (q.rows * q.cols < 10'000) (void)dequantize(q);
  }
}

void read_config(std::span<const std::byte> input) {
  using sinq::store::parse_json;
  const std::string_view text(reinterpret_cast<const char*>(input.data()), input.size());
  const sinq::store::Config config(parse_json(text, "fuzz"), "fuzz");
  // What it accepts it can print, and reads again as the same.
  const std::string printed = config.json().dump(2, ' ', false, sinq::store::Json::error_handler_t::replace);
  require(parse_json(printed, "fuzz") == config.json());
  for (const auto& [name, value] : config.json().items()) {
    if (value.is_object()) (void)config.object(name).has(name);
    if (value.is_number_integer()) (void)config.number(name);
    if (value.is_array()) {
      try {
        (void)config.integers(name);
      } catch (const sinq::FormatError&) {
      }
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::vector<std::uint8_t> exact(data, data + size);
  for (auto* read : {read_file, read_config}) {
    try {
      read(std::as_bytes(std::span(exact)));
    } catch (const sinq::FormatError& e) {
      require(e.byte_offset() <= size);
    }
  }
  return 0;
}

extern "C" [[gnu::weak]] std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t most);

/// Mutates the header alone every other time and sets its length anew: a header that grows by a byte would otherwise
/// always be wrong, and the fuzzer would never get past the length. (Not called where the corpus is only replayed.)
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t most, unsigned seed) {
  std::uint64_t length = 0;
  if (size >= 8) std::memcpy(&length, data, 8);
  if (size < 8 || length > size - 8 || most < size + 8 || seed % 2 == 0) return LLVMFuzzerMutate(data, size, most);
  const auto header = static_cast<std::size_t>(length);
  const std::vector<std::uint8_t> behind(data + 8 + header, data + size);
  length = LLVMFuzzerMutate(data + 8, header, most - 8 - behind.size());
  std::memcpy(data, &length, 8);
  std::copy(behind.begin(), behind.end(), data + 8 + length);
  return 8 + static_cast<std::size_t>(length) + behind.size();
}
