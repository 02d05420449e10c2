"""pytorchlightning_example: A Flower / PyTorch Lightning app."""

import lightning.pytorch as pl
import torch
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp

from fedmrn import ModelLayout
from fedmrn.flower import FedMRN
from pytorchlightning_example.task import LitAutoEncoder, load_centralized_dataset

# Create ServerApp
app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Main entry point for the ServerApp."""

    # Read run config
    fraction_evaluate: float = context.run_config["fraction-evaluate"]
    num_rounds: int = context.run_config["num-server-rounds"]
    data_dir: str = context.run_config["data-dir"]

    # Load global model
    global_model = LitAutoEncoder()
    arrays = ArrayRecord(global_model.state_dict())

    def global_evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        """Evaluate model on central data."""
        model = LitAutoEncoder()
        model.load_state_dict(arrays.to_torch_state_dict())
        trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
        results = trainer.test(model, load_centralized_dataset(data_dir), verbose=False)
        return MetricRecord({"loss": results[0]["test_loss"]})

    # Initialize FedMRN strategy
    strategy = FedMRN(ModelLayout.of(global_model), "fedmrn-s", fraction_evaluate=fraction_evaluate)

    # Start strategy, run FedAvg for `num_rounds`
    result = strategy.start(
        grid=grid,
        initial_arrays=arrays,
        num_rounds=num_rounds,
        evaluate_fn=global_evaluate,
    )

    # Save final model to disk
    print("\nSaving final model to disk...")
    state_dict = result.arrays.to_torch_state_dict()
    torch.save(state_dict, "final_model.pt")
