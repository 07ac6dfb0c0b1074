// SPDX-License-Identifier: Apache-2.0
package import Configuration
import Driver

extension DriverFootprint {
  /// Of the driver that this service runs.
  package static var measured: DriverFootprint {
    DriverFootprint(
      slot: DriverSizes.slot, clientSendBuffer: Int(DriverSizes.clientSend),
      linkBuffers: Int(DriverSizes.linkSend) + Int(DriverSizes.linkReceive),
      secureSlot: DriverSizes.secureSlot,
      secureBuffers: DriverSizes.secureBufferCount * DriverSizes.secureBuffer,
      mailbox: Worker.mailboxBytes, lookUps: ListBook.workerBytes)
  }
}
