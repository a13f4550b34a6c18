import DTLSEngine
import LinuxSystem

/// A worker's end of its channel to the key process. The worker waits for each answer: it is there in 40 µs or, with RSA, in
/// a millisecond, and OpenSSL has no other way to be answered later.
///
/// Each request begins with the number of the processor that the worker runs on (16 bits), since the key process is to work on
/// that one: the worker does nothing until it has the answer, and a thread on another processor would have to be woken there,
/// and wake this one again, which takes longer than a signature does.
final class KeyChannel {
    private var descriptor: FileDescriptor
    private let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 16 * 1_024, alignment: 16)
    private var message: [UInt8] = []

    /// How long an answer may take, in milliseconds: longer than the main process takes to end a key process that does not
    /// answer, which closes the channel. What comes later than usual has met a busy machine, and a handshake that fails costs
    /// its client more than one that waits.
    private static let patience: Int32 = 10_000

    init(_ descriptor: consuming FileDescriptor) { self.descriptor = descriptor }

    deinit { buffer.deallocate() }

    var isOpen: Bool { descriptor.isOpen }

    /// Sends a request, and waits for its answer where it has one.
    /// - Returns: `nil` where there is none. Unless the request was too long, the channel is closed then: the answer to this
    ///   request may come later, and would be taken for that to the next one.
    func ask(_ request: [UInt8], isAnswered: Bool) -> [UInt8]? {
        guard request.count + MemoryLayout<UInt16>.size <= UnixChannel.maximumMessageSize else { return nil }
        do throws(SystemError) {
            message.removeAll(keepingCapacity: true)
            withUnsafeBytes(of: SystemThread.processor) { message.append(contentsOf: $0) }
            message.append(contentsOf: request)
            let isSent = try message.withUnsafeBufferPointer { bytes throws(SystemError) in
                try UnixChannel.send(UnsafeRawBufferPointer(bytes), over: descriptor)
            }
            if isSent {
                guard isAnswered else { return nil }
                while try UnixChannel.waitForMessage(on: descriptor, milliseconds: Self.patience) {
                    let received = try UnixChannel.receive(into: buffer, from: descriptor)
                    switch consume received {
                    case .nothing: continue
                    case .message(let count, _, _): return Array(buffer[..<count])
                    case .end:
                        _ = descriptor.take()
                        return nil
                    }
                }
            }
        } catch {
            // The key process has ended, as far as this channel is concerned.
        }
        _ = descriptor.take()
        return nil
    }
}
