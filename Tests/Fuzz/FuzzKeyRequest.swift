// Built by scripts/fuzz, which lets it use the engine's internal names.

import Primitives

@testable import DTLSEngine

/// What a worker that somebody else controls can ask the process that holds the private keys: requests, and what is to be
/// signed. The key is made of the first input, and is not asked of anybody.
@_cdecl("LLVMFuzzerTestOneInput")
func fuzzKeyRequest(_ bytes: UnsafePointer<UInt8>?, _ count: Int) -> Int32 {
    let input = UnsafeRawBufferPointer(start: bytes, count: count)
    check(input)
    var user = KeyUser()
    let outcome = user.receive(input, find: { _, _ in nil }, mayUse: { fatalError("a use of a key that there is not") })
    guard let request = try? KeyRequest(decoding: input) else {
        guard case .violation = outcome else { fatalError("what is malformed is no violation") }
        return 0
    }
    guard request.bytes.elementsEqual(input) else { fatalError("another request") }
    switch (request, outcome) {
    case (.release, .nothing), (_, .answer(.unknownKey)): break
    case (.sign(_, _, let content), .violation):
        guard SignedContent(content) == nil else { fatalError("a handshake's bytes are refused") }
    case (.presharedKey(_, let identity), .violation):
        guard !(1...255).contains(identity.count) else { fatalError("an identity is refused") }
    default: fatalError("\(outcome)")
    }
    if case .sign(_, _, let content) = request { check(content) }
    return 0
}

/// What is taken for a handshake's bytes is that in all of its length, and none of both kinds is the other one.
private func check(_ content: UnsafeRawBufferPointer) {
    guard let kind = SignedContent(content) else { return }
    switch kind {
    case .serverKeyExchange:
        guard content.count >= 64 + 4 + 32 else { fatalError("too short") }
        // The length says where the parameters end.
        let shorter = UnsafeRawBufferPointer(rebasing: content.dropLast())
        guard SignedContent(shorter) != .serverKeyExchange else { fatalError("bytes that nobody looks at") }
    case .certificateVerify:
        guard content.first == 1 else { fatalError("no ClientHello in front") }
        let shorter = UnsafeRawBufferPointer(rebasing: content.dropLast())
        guard SignedContent(shorter) != .certificateVerify else { fatalError("bytes that nobody looks at") }
    }
}
