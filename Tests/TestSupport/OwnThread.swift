import Foundation

/// A thread with a part of the process' state to itself, so that a test can change that part or use it up while other
/// tests run beside it.
package enum OwnThread {
    package struct Failure: Error, CustomStringConvertible {
        package let description: String

        fileprivate init(_ call: String) { description = "\(call): \(String(cString: strerror(errno)))" }
    }

    /// Runs `work` on a thread that has a network to itself: a loopback interface, which is down at first. This takes
    /// CAP_SYS_ADMIN. The calling thread waits.
    package static func runInOwnNetwork<Value: Sendable>(
        _ work: @escaping @Sendable () throws -> Value
    ) throws -> Value {
        try run {
            let newNetwork: CInt = 0x4000_0000
            typealias Unshare = @convention(c) (CInt) -> CInt
            guard let unshare = function("unshare", as: Unshare.self), unshare(newNetwork) == 0 else {
                throw Failure("unshare")
            }
            return try work()
        }
    }

    /// Runs `work` on a thread in the network of another process: the sockets that it opens stay there. This takes
    /// CAP_SYS_ADMIN. The calling thread waits.
    package static func run<Value: Sendable>(
        inNetworkOf process: pid_t, _ work: @escaping @Sendable () throws -> Value
    ) throws -> Value {
        try run {
            typealias SetNamespace = @convention(c) (CInt, CInt) -> CInt
            let network = open("/proc/\(process)/ns/net", O_RDONLY | O_CLOEXEC)
            defer { close(network) }
            guard network >= 0, let enter = function("setns", as: SetNamespace.self), enter(network, 0) == 0 else {
                throw Failure("setns")
            }
            return try work()
        }
    }

    /// Runs `work` on a thread that has its own table of descriptors, in which there is room for `free` more: what it
    /// opens after these fails with EMFILE, and nothing else in the process does. The calling thread waits.
    ///
    /// The table begins with the standard streams alone. What `work` opens is closed when it returns.
    package static func run<Value: Sendable>(
        freeDescriptors free: Int, _ work: @escaping @Sendable () throws -> Value
    ) throws -> Value {
        try run {
            // close_range(2): it copies the table and leaves the others' descriptors out, in one step, so that no
            // socket of another test is kept open by this thread.
            let unshareTable: CUnsignedInt = 2
            typealias CloseRange = @convention(c) (CUnsignedInt, CUnsignedInt, CUnsignedInt) -> CInt
            guard let closeRange = function("close_range", as: CloseRange.self),
                closeRange(3, .max, unshareTable) == 0
            else { throw Failure("close_range") }
            var last = dup(2)
            while true {
                let next = dup(2)
                if next < 0 { break }
                last = next
            }
            guard errno == EMFILE, last >= free else { throw Failure("dup") }
            for number in 0..<free { close(last - CInt(number)) }
            return try work()
        }
    }

    /// Runs `work` on a thread that ends afterwards, for what holds for a thread alone, and for good. The calling thread
    /// waits.
    package static func runAlone<Value: Sendable>(_ work: @escaping @Sendable () throws -> Value) throws -> Value {
        try run(work)
    }

    private static func run<Value: Sendable>(_ work: @escaping @Sendable () throws -> Value) throws -> Value {
        let outcome = Outcome<Value>()
        let done = DispatchSemaphore(value: 0)
        Thread.detachNewThread {
            outcome.result = Result { try work() }
            done.signal()
        }
        done.wait()
        guard let result = outcome.result else { throw CancellationError() }
        return try result.get()
    }

    /// The new thread writes it, and the waiting one reads it afterwards.
    private final class Outcome<Value: Sendable>: @unchecked Sendable {
        var result: Result<Value, any Error>?
    }

    /// A function of the C library that Swift's Glibc module does not have.
    private static func function<Function>(_ name: String, as type: Function.Type) -> Function? {
        dlsym(nil, name).map { unsafeBitCast($0, to: type) }
    }
}
