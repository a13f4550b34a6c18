// Built by scripts/fuzz, which lets it use the internal names of engine and transport.

import LinuxSystem
import Primitives

@testable import DTLSEngine
@testable import DTLSTransport

/// What every run needs, made once.
private final class Fuzzed {
    let file: SlotFile
    let other: SlotFile
    let bio: DatagramBIO
    var sum: UInt64 = 0

    init() {
        do {
            file = try SlotFile(capacity: 2, name: "fuzz")
            other = try SlotFile(capacity: 2, name: "other")
            bio = try DatagramBIO(scheduleCapacity: 4)
        } catch { fatalError("\(error)") }
    }

    func touch(_ bytes: UnsafeRawBufferPointer) { for byte in bytes { sum &+= UInt64(byte) } }
}

private nonisolated(unsafe) let fuzzed = Fuzzed()

/// The header's words of last flights, and where slots begin; see `SlotFile`.
private let flights = 16..<128
private let slots = 4_096

/// Whatever a worker that somebody else controls has written into the memory of its connections, or an earlier version has
/// left there, the main process and the next worker read what lies within it.
///
/// The input is the header's words, two slots, and their overflow cells.
@_cdecl("LLVMFuzzerTestOneInput")
func fuzzSlots(_ bytes: UnsafePointer<UInt8>?, _ count: Int) -> Int32 {
    let input = UnsafeRawBufferPointer(start: bytes, count: count)
    let memory = fuzzed.file.bytes
    write(input.prefix(flights.count), into: memory, at: flights.lowerBound, flights.count)
    let size = 2 * (ConnectionSlot.byteCount + ConnectionSlot.overflowByteCount)
    write(input.dropFirst(flights.count), into: memory, at: slots, size)
    guard (0...2).contains(fuzzed.file.used), fuzzed.file.current.map({ (0..<2).contains($0) }) ?? true else {
        fatalError("more slots than there are")
    }
    for index in 0..<2 { read(fuzzed.file[index], of: fuzzed.file) }
    // Another worker, or the next main process, goes on with them.
    for index in 0..<2 {
        guard fuzzed.file[index].phase == .established else { continue }
        fuzzed.other.takeOver(fuzzed.file[index], of: fuzzed.file, into: index)
        read(fuzzed.other[index], of: fuzzed.other)
        _ = fuzzed.other[index].mendFlow()
        fuzzed.other[index].leaveFlow()
        fuzzed.other[index].end()
        fuzzed.other[index].free()
        guard fuzzed.other[index].lastFlow == nil else { fatalError("a slot that is free has a flow") }
    }
    return 0
}

private func write(
    _ part: Slice<UnsafeRawBufferPointer>, into memory: UnsafeMutableRawBufferPointer, at offset: Int, _ size: Int
) {
    for index in 0..<size { memory[offset + index] = 0 }
    for (index, byte) in part.prefix(size).enumerated() { memory[offset + index] = byte }
}

private func read(_ slot: ConnectionSlot, of file: SlotFile) {
    fuzzed.touch(slot.random)
    fuzzed.touch(slot.details)
    var reader = ByteReader(slot.details)
    if let details = try? SessionDetails(decoding: &reader) { fuzzed.sum &+= UInt64(details.version.utf8.count) }
    if let flow = slot.flow, flow != slot.lastFlow { fatalError("another flow") }
    if let flight = file.flight(of: slot) { fuzzed.sum &+= UInt64(flight.bytes.count) }
    if let id = slot.ownConnectionID { fuzzed.sum &+= UInt64(id.count) }
    if case .udp(let far, let local) = slot.farSide, far == local { fuzzed.sum &+= 1 }
    fuzzed.sum &+= slot.counters.messagesIn &+ UInt64(slot.deaths) &+ UInt64(slot.discoveredMTU)
    _ = (slot.started, slot.lastReceived, slot.lastDeath, slot.handshakeDuration, slot.target, slot.generation)
    guard slot.phase == .established else { return }
    // It may be no state at all; if it is one, nothing that comes is authentic.
    let datagram: [UInt8] = [23, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 9, 0, 24] + Array(repeating: 7, count: 24)
    datagram.withUnsafeBytes { datagram in
        guard RecordState.authenticates(datagram, at: slot.records, over: fuzzed.bio) == .no else {
            fatalError("it is authentic")
        }
    }
    if let engine = try? Engine(resuming: slot.records, over: fuzzed.bio) {
        guard engine.isEstablished else { fatalError("an engine without a connection") }
    }
    fuzzed.bio.outbox.removeAll()
}
