// Built by scripts/fuzz with KeyLines.swift.

/// Whatever text stands in a configuration file, the scan of its keys ends, and names no line that the file has not.
@_cdecl("LLVMFuzzerTestOneInput")
func fuzzKeyLines(_ bytes: UnsafePointer<UInt8>?, _ count: Int) -> Int32 {
    let text = [UInt8](UnsafeBufferPointer(start: bytes, count: count))
    // The reader refuses it before.
    guard !text.contains(0) else { return 0 }
    let lines = text.count { $0 == UInt8(ascii: "\n") } + 1
    let found = KeyLines(text)
    for refusal in found.refusals {
        guard (1...lines).contains(refusal.line) else { fatalError("line \(refusal.line) of \(lines)") }
    }
    for path in [["a"], ["service", "echo", "listen"], ["workers"]] {
        for element in [nil, 0, 1] {
            guard let line = found.line(of: path, element: element) else { continue }
            guard (1...lines).contains(line) else { fatalError("line \(line) of \(lines)") }
        }
    }
    return 0
}
