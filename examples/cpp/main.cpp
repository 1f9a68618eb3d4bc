// Runs a TorchScript artifact of AutoTimm with LibTorch alone: no Python, no torchvision.
//
//   predict MODEL.pt PIXELS HEIGHT WIDTH [--manifest]
//
// PIXELS is a file of HEIGHT * WIDTH * 3 bytes, RGB, row by row, at the size of the network's input. The outputs are
// written one a line, in the order of the manifest: type, shape, values. --manifest writes the manifest instead.

#include <torch/script.h>

#include <exception>
#include <fstream>
#include <iostream>
#include <iterator>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

std::vector<char> read(const std::string& path, size_t size) {
  std::ifstream file(path, std::ios::binary);
  std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  if (bytes.size() != size) {
    throw std::runtime_error(path + ": has " + std::to_string(bytes.size()) + " bytes, not " + std::to_string(size));
  }
  return bytes;
}

void write(const torch::Tensor& output) {
  std::cout << output.dtype() << ' ' << output.sizes();
  const auto values = output.cpu().to(torch::kDouble).flatten().contiguous();
  for (int64_t index = 0; index < values.numel(); ++index) {
    std::cout << ' ' << values.data_ptr<double>()[index];
  }
  std::cout << '\n';
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) {
    std::cerr << "usage: predict MODEL.pt PIXELS HEIGHT WIDTH [--manifest]\n";
    return 2;
  }
  try {
    const int64_t height = std::stol(argv[3]), width = std::stol(argv[4]);
    auto pixels = read(argv[2], height * width * 3);

    torch::jit::ExtraFilesMap extra_files{{"autotimm.json", ""}};
    auto model = torch::jit::load(argv[1], torch::kCPU, extra_files);
    if (argc > 5 && std::string(argv[5]) == "--manifest") {
      std::cout << extra_files["autotimm.json"];
      return 0;
    }
    model.eval();
    model = torch::jit::freeze(model);  // weights become constants; batch norms go into their convolutions

    c10::InferenceMode guard;
    const auto images = torch::from_blob(pixels.data(), {1, height, width, 3}, torch::kUInt8);
    const auto outputs = model.forward({images}).toTuple();

    std::cout.precision(std::numeric_limits<float>::max_digits10);
    for (const auto& output : outputs->elements()) {
      write(output.toTensor());
    }
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << '\n';
    return 1;
  }
}
