"""Your data recorded as they are, once; then your own module trained from the store, in batches of your own layout."""

import lightning.pytorch as pl
from project import LitGPT
from teacher import trained_teacher
from texts import Texts

from pd_lightning.callbacks import Distill
from pd_lightning.data import TokenBlocks
from pd_lightning.data.layout import as_next_tokens
from pd_lightning.record import Recorder
from pd_lightning.teachers import FrozenTeacher, OfflineTeacher
from pd_lightning.trainer import PDTrainer
from pd_lightning.transforms import TopPK


def main(max_steps: int = 100) -> None:
    recorder = Recorder(FrozenTeacher(trained_teacher()), "store", tokenizer=Texts.tokenizer_dir)
    PDTrainer(logger=False).record(recorder, Texts())  # goes on where it was stopped

    pl.seed_everything(1)
    distill = Distill(OfflineTeacher(), "model.lm_head", transforms={"truncate": TopPK(p=0.9, k=20)})
    data = TokenBlocks("store", batch_size=16, batch_map=as_next_tokens)  # LitGPT's pairs; the targets go to Distill
    trainer = pl.Trainer(
        max_steps=max_steps,
        val_check_interval=max_steps,
        callbacks=[distill],
        use_distributed_sampler=False,
        enable_progress_bar=False,
    )
    trainer.fit(LitGPT(), data)
    print({name: round(float(value), 3) for name, value in trainer.callback_metrics.items()})


if __name__ == "__main__":
    main()
