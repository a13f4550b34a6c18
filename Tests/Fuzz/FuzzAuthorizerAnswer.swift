// Built by scripts/fuzz together with Verdict.swift, in one module.

import DTLSEngine

/// Any datagram is an answer whose parts are within their bounds, or none.
@_cdecl("LLVMFuzzerTestOneInput")
func fuzzAuthorizerAnswer(_ bytes: UnsafePointer<UInt8>?, _ count: Int) -> Int32 {
    guard let verdict = try? Verdict(UnsafeRawBufferPointer(start: bytes, count: count)) else { return 0 }
    guard verdict.lifetime >= .zero, verdict.lifetime <= .seconds(1_000_000) else { fatalError("the time") }
    switch verdict.answer {
    case .allowed(let key, let label):
        if let key, !(1...512).contains(key.count) { fatalError("the key") }
        if let label, !(1...Verdict.longestLabel).contains(label.utf8.count) { fatalError("the label") }
    case .refused(let reason, _):
        if reason.utf8.contains(where: { $0 < 0x20 }) { fatalError("the reason") }
    }
    return 0
}
