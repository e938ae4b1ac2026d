// SPDX-License-Identifier: Apache-2.0
// A session in a file, to be resumed by another process. Little-endian:
//     "XLSTMSES"  u32 version (1)  u32 bytes of a state value  u64 fingerprint of the weights
//     u64 state_size  u64 vocab_size  u64 position  i64 owed token, or −1
//     state values   logits, both in the backend's types   u64 CRC-64/XZ of all before
// Written atomically; refused for another model, another version, and when damaged.
#pragma once

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <string>

#include "xlstm/generate/session.hpp"
#include "xlstm/io/checksum.hpp"
#include "xlstm/io/file.hpp"

namespace xlstm {

template <class SessionType>
class SessionFile {
  using Model = typename SessionType::Model;
  using State = typename SessionType::State;
  using Logit = typename SessionType::Logit;
  static constexpr char magic[9] = "XLSTMSES";
  static constexpr std::uint32_t version = 1;

  struct Header {
    char magic[8];
    std::uint32_t version;
    std::uint32_t value_bytes;
    std::uint64_t fingerprint;
    std::uint64_t state_size;
    std::uint64_t vocab_size;
    std::uint64_t position;
    std::int64_t owed;
  };
  static_assert(sizeof(Header) == 56);
  static constexpr std::size_t state_bytes = static_cast<std::size_t>(Model::state_size) * sizeof(State);
  static constexpr std::size_t logits_bytes = static_cast<std::size_t>(Model::vocab_size) * sizeof(Logit);
  static constexpr std::size_t file_bytes = sizeof(Header) + state_bytes + logits_bytes + 8;

 public:
  /// Error if the file can't be written; a file that was there before is then still whole.
  static void save(const SessionType& session, const std::filesystem::path& path) {
    if (session.counted() > 0) {
      SessionType copy(session);
      copy.take_owed(session.counted());
      return save(copy, path);
    }
    Header header{};
    std::copy_n(magic, 8, header.magic);
    header.version = version;
    header.value_bytes = sizeof(State);
    header.fingerprint = session.model_.fingerprint();
    header.state_size = static_cast<std::uint64_t>(Model::state_size);
    header.vocab_size = static_cast<std::uint64_t>(Model::vocab_size);
    header.position = static_cast<std::uint64_t>(session.position());
    header.owed = session.owed().value_or(-1);
    io::AtomicFile file(path);
    io::Checksum sum;
    const auto put = [&](const void* data, std::size_t bytes) {
      const std::span piece(static_cast<const std::byte*>(data), bytes);
      sum.update(piece);
      file.write(piece);
    };
    put(&header, sizeof header);
    const auto state = session.state();
    put(state.data(), state_bytes);
    put(session.logits_.data(), logits_bytes);
    const std::uint64_t value = sum.value();
    file.write(std::as_bytes(std::span(&value, 1)));
    file.commit();
  }

  /// Error that says what is wrong with the file; then the session is as it was.
  static void load(SessionType& session, const std::filesystem::path& path) {
    const io::MappedFile file(path);
    const std::string& name = file.name();
    const std::span<const std::byte> bytes(file.data(), file.size());
    Header header{};
    if (bytes.size() < sizeof header) fail(name, ": not a session file: ", bytes.size(), " bytes, too short");
    std::memcpy(&header, bytes.data(), sizeof header);
    if (!std::equal(header.magic, header.magic + 8, magic))
      fail(name, ": not a session file (its first 8 bytes differ)");
    if (header.version != version) {
      fail(name, ": session file of version ", header.version, ", this program reads version ", version);
    }
    if (header.state_size != static_cast<std::uint64_t>(Model::state_size) || header.value_bytes != sizeof(State) ||
        header.vocab_size != static_cast<std::uint64_t>(Model::vocab_size)) {
      fail(name, ": the session belongs to a model of another size: state of ", header.state_size, " values of ",
           header.value_bytes, " bytes and vocabulary of ", header.vocab_size, ", expected ", Model::state_size, " of ",
           sizeof(State), " and ", Model::vocab_size);
    }
    if (bytes.size() != file_bytes) {
      fail(name, ": session file of ", bytes.size(), " bytes, expected ", file_bytes);
    }
    io::Checksum sum;
    sum.update(bytes.first(file_bytes - 8));
    std::uint64_t stored = 0;
    std::memcpy(&stored, bytes.data() + file_bytes - 8, 8);
    if (stored != sum.value()) fail(name, ": session file is damaged (its checksum does not hold)");
    if (header.fingerprint != session.model_.fingerprint()) {
      fail(name, ": the session belongs to another model's weights, or to these stored in another type");
    }
    if (header.owed < -1 || header.owed >= std::int64_t{Model::vocab_size} ||
        header.position > static_cast<std::uint64_t>(PTRDIFF_MAX)) {
      fail(name, ": session file is damaged (token or position out of range)");
    }
    session.state_.write(bytes.data() + sizeof header);
    std::memcpy(session.logits_.data(), bytes.data() + sizeof header + state_bytes, logits_bytes);
    session.position_ = static_cast<Index>(header.position);
    session.owed_.clear();
    if (header.owed >= 0) session.owed_.push_back(static_cast<Token>(header.owed));
    session.touch();
  }
};

/// Saves a session; Error if the file can't be written.
template <class Model>
void save_session(const Session<Model>& session, const std::filesystem::path& path) {
  SessionFile<Session<Model>>::save(session, path);
}

/// Continues a saved session with `model`; Error if the file is missing, damaged or of another model.
template <class Model>
Session<Model> load_session(const Model& model, const std::filesystem::path& path) {
  Session<Model> session(model);
  SessionFile<Session<Model>>::load(session, path);
  return session;
}

}  // namespace xlstm
