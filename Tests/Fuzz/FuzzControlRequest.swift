// Built by scripts/fuzz with the module ControlProtocol.

import ControlProtocol

/// Whatever bytes come over the control socket, they are cut into lines of a bounded length, and each line is a request
/// that reads the same once it was written, or an error that can be sent.
@_cdecl("LLVMFuzzerTestOneInput")
func fuzzControlRequest(_ bytes: UnsafePointer<UInt8>?, _ count: Int) -> Int32 {
    var framing = LineFraming(maximum: 1_024)
    let stream = UnsafeRawBufferPointer(start: bytes, count: count)
    // In two parts, since a line may end in either.
    let half = (stream.first.map(Int.init) ?? 0) % max(count, 1)
    for part in [stream[..<half], stream[half...]] {
        framing.append(UnsafeRawBufferPointer(rebasing: part))
        while let piece = framing.next() {
            guard case .line(let line) = piece else { return 0 }
            guard line.count <= 1_024 else { fatalError("a line that is too long") }
            check(line)
        }
    }
    return 0
}

private func check(_ line: [UInt8]) {
    do {
        switch ControlProtocol.request(from: line) {
        case .success(let request):
            let written = try ControlProtocol.encode(request)
            guard case .success(request) = ControlProtocol.request(from: written), !written.contains(10) else {
                fatalError("a request that reads otherwise once it was written")
            }
        case .failure(let refused):
            let answer = ControlAnswer<CloseResult>(.failure(refused.error), id: refused.id)
            let written = try ControlProtocol.encode(answer)
            guard refused.error.message.utf8.count < 1_000, !written.contains(10) else {
                fatalError("an error that is too long")
            }
        }
    } catch {
        fatalError("\(error)")
    }
}
